"""Pickles that call something a list of bad names has not thought of, each by its plain name."""

from __future__ import annotations

from auditor.proving.scan import craft
from auditor.proving.scan.specimen import Specimen, one_file

__all__ = ["IMPORTS"]

_MISSED = "google/saferpickle#18: in the wild and missed"
_LISTED = "picklescan#53: entry points of the kind that the advisories of December 2025 name"
_DISABLES = "fickling PR#249: a pickle that switches the scanner off"
_ALLOWED_PARENT = "picklescan CVE-2025-10157: a submodule evades an exact match of module names"

# (module, name, which record)
_CALLS: tuple[tuple[str, str, str], ...] = (
    ("pip", "main", "picklescan CVE-2025-1716: pip.main as a callable"),
    ("pip._internal.cli.main", "main", "picklescan CVE-2025-1716 and CVE-2025-10157"),
    ("importlib", "import_module", "picklescan#74: importlib is missing from the list"),
    ("marshal", "loads", "picklescan#74: marshal is missing from the list"),
    ("torch.utils.collect_env", "run", _MISSED),
    ("multiprocessing.util", "spawnv_passfds", _MISSED),
    ("mlflow.projects.backend.local", "_run_entry_point", _MISSED),
    ("pandas", "read_csv", _MISSED + " (data leaves by a URL)"),
    ("pandas.io.parsers.readers", "read_csv", _MISSED),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start", _ALLOWED_PARENT),
    ("collections.abc", "OrderedDict", _ALLOWED_PARENT),
    ("torch._utils.os", "system", _ALLOWED_PARENT),
    ("numpy.core.multiarray.os", "system", _ALLOWED_PARENT),
    *(
        (module, name, _LISTED)
        for module, name in (
            ("timeit", "timeit"),
            ("cProfile", "run"),
            ("profile", "run"),
            ("doctest", "debug_script"),
            ("trace", "Trace.run"),
            ("bdb", "Bdb.run"),
            ("code", "InteractiveInterpreter.runcode"),
            ("idlelib.pyshell", "ModifiedInterpreter.runcode"),
            ("idlelib.run", "Executive.runcode"),
            ("lib2to3.pgen2.grammar", "Grammar.loads"),
            ("ensurepip", "_run_pip"),
            ("pydoc", "pipepager"),
            ("pydoc", "locate"),
            ("pkgutil", "resolve_name"),
            ("runpy", "run_path"),
            ("runpy", "_run_code"),
            ("logging.config", "listen"),
            ("uuid", "_get_command_stdout"),
            ("_aix_support", "_read_cmd_output"),
            ("_osx_support", "_read_output"),
            ("distutils.spawn", "spawn"),
            ("test.support.script_helper", "assert_python_ok"),
            ("torch.utils._config_module", "ConfigModule.load_config"),
            ("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression"),
            ("torch.utils.bottleneck.__main__", "run_cprofile"),
            ("torch.utils.data.datapipes.utils.decoder", "basichandlers"),
            ("torch.jit.unsupported_tensor_ops", "execWrapper"),
            ("torch._inductor.codecache", "compile_file"),
            ("torch.hub", "load"),
            ("torch", "load"),
            ("torch.serialization", "load"),
            ("numpy.testing._private.utils", "runstring"),
            ("numpy.f2py.crackfortran", "getlincoef"),
            ("numpy", "load"),
            ("numpy", "fromfile"),
            ("numpy.lib._npyio_impl", "load"),
        )
    ),
    *(
        (module, name, "the classics")
        for module, name in (
            ("posix", "system"),
            ("nt", "system"),
            ("subprocess", "check_output"),
            ("pty", "spawn"),
            ("builtins", "eval"),
            ("builtins", "exec"),
            ("builtins", "compile"),
            ("builtins", "open"),
            ("builtins", "__import__"),
            ("__builtin__", "eval"),
            ("__builtin__", "apply"),
            ("builtins", "breakpoint"),
            ("builtins", "getattr"),
            ("builtins", "setattr"),
            ("builtins", "map"),
            ("builtins", "globals"),
            ("operator", "methodcaller"),
            ("functools", "partial"),
            ("functools", "reduce"),
            ("itertools", "starmap"),
            ("types", "CodeType"),
            ("types", "FunctionType"),
            ("ctypes", "CDLL"),
            ("shutil", "rmtree"),
            ("os", "execvp"),
            ("os", "popen"),
            ("socket", "create_connection"),
            ("urllib.request", "urlopen"),
            ("http.client", "HTTPSConnection"),
            ("requests.api", "get"),
            ("webbrowser", "open"),
            ("sys", "exit"),
            ("sys", "modules"),
            ("pickle", "Unpickler"),
            ("_pickle", "loads"),
            ("dill", "loads"),
            ("joblib", "load"),
            ("cloudpickle.cloudpickle", "loads"),
            ("copyreg", "_reconstructor"),
            ("tempfile", "mktemp"),
            ("smtplib", "SMTP"),
            ("sqlite3", "connect"),
            ("zipimport", "zipimporter"),
            ("site", "main"),
            ("keras.layers", "Lambda"),
            ("transformers.utils", "hub.cached_file"),
            ("diffusers", "DiffusionPipeline.from_pretrained"),
            ("huggingface_hub", "hf_hub_download"),
            ("yaml", "unsafe_load"),
        )
    ),
    ("fickling.hook", "remove_hook", _DISABLES),
    ("fickling", "hook.deactivate_safe_ml_environment", _DISABLES),
    ("picklescan.scanner", "_safe_globals.update", _DISABLES),
    ("modelscan.settings", "DEFAULT_SETTINGS.clear", _DISABLES),
    ("modelaudit.core", "scan_model_directory_or_file", _DISABLES),
    ("auditor.artifact.pickle_guard", "allowlist", _DISABLES),
    ("auditor.artifact.pickle_guard.allowlist", "CALLABLES", _DISABLES),
    (
        "torch.serialization",
        "add_safe_globals",
        "torch CVE-2025-32434 and -2026-24747: weights_only is no boundary",
    ),
)


def _specimen(module: str, name: str, stands_for: str) -> Specimen:
    data = craft.torch_zip(craft.pickled(craft.call(module, name, craft.text("true"))), {})
    told = f"call of {module}.{name}"
    return Specimen(told, "import", stands_for, one_file("model.pt", data), f"{module}.{name}")


IMPORTS: tuple[Specimen, ...] = tuple(_specimen(*each) for each in _CALLS)
"""All of them."""
