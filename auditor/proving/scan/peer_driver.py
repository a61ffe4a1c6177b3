"""Runs one other scanner over files, in the interpreter in which that scanner is installed.

A script of its own: ``python peer_driver.py SCANNER files|folder``, with a JSON list of paths on standard
input. It prints one JSON object a line: for ``files`` a verdict for each path, for ``folder`` the seconds that
the scanner's own call for a folder took. Sockets are shut, and the environment is the caller's, who has
switched telemetry off. Nothing of this project is imported here.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import socket
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

MEMORY = 6 << 30

Verdict = tuple[str, str]


def _no_network(*_: Any, **__: Any) -> Any:
    raise OSError("the network is off")


def _picklescan() -> Callable[[str], Verdict]:
    from picklescan import scanner

    def scan(path: str) -> Verdict:
        # As its command line does: a folder by the names in it, a file by its content.
        call = scanner.scan_directory_path if os.path.isdir(path) else scanner.scan_file_path  # noqa: PTH112
        result = call(path)
        if result.scan_err:
            return "error", "scan error"
        named = sorted(f"{g.module}.{g.name}" for g in result.globals if g.safety.name == "Dangerous")
        if result.scanned_files == 0:
            return "skipped", "no file was scanned"
        return ("flagged", ", ".join(named)) if result.issues_count else ("passed", "")

    return scan


def _modelscan() -> Callable[[str], Verdict]:
    from modelscan.modelscan import ModelScan

    def scan(path: str) -> Verdict:
        scanner = ModelScan()
        scanner.scan(path)
        issues = scanner.issues.all_issues
        if issues:
            return "flagged", "; ".join(sorted({str(issue.details.__dict__)[:160] for issue in issues}))[:400]
        if scanner.errors:
            return "error", str(scanner.errors[0])[:200]
        return ("passed", "") if scanner.scanned else ("skipped", "no supported file")

    return scan


def _fickling() -> Callable[[str], Verdict]:
    import zipfile

    from fickling.analysis import Severity
    from fickling.loader import scan_file, scan_zip_archive

    def scan(path: str) -> Verdict:
        found = []
        for name in _files(path):
            if zipfile.is_zipfile(name):
                found += list(scan_zip_archive(name, json_output_path=os.devnull).values())
            else:
                found.append(scan_file(name, json_output_path=os.devnull))
        if not found:
            return "skipped", "no pickle by its name"
        worst = max((one.severity for one in found), default=Severity.LIKELY_SAFE)
        return ("flagged", worst.name) if worst > Severity.LIKELY_SAFE else ("passed", "")

    return scan


def _modelaudit() -> Callable[[str], Verdict]:
    from modelaudit.core import determine_exit_code, scan_model_directory_or_file

    def scan(path: str) -> Verdict:
        result = scan_model_directory_or_file(path, cache_enabled=False)
        code = determine_exit_code(result)
        told = [str(issue.message) for issue in result.issues if "INFO" not in str(issue.severity).upper()]
        return {0: "passed", 1: "flagged"}.get(code, "error"), "; ".join(told)[:400]

    return scan


def _files(path: str) -> list[str]:
    if os.path.isfile(path):  # noqa: PTH113
        return [path]
    return sorted(os.path.join(root, name) for root, _, names in os.walk(path) for name in names)  # noqa: PTH118


def _folder(scan: Callable[[str], Verdict], name: str, path: str) -> None:
    # The one scanner without a call for folders is given the files one by one, in the same process.
    for each in _files(path) if name == "fickling" else [path]:
        with contextlib.suppress(Exception):
            scan(each)


SCANNERS = {
    "picklescan": _picklescan,
    "modelscan": _modelscan,
    "fickling": _fickling,
    "modelaudit": _modelaudit,
}


def main(name: str, mode: str) -> None:
    """Prints a verdict for each path, or the seconds for a folder."""
    paths = json.load(sys.stdin)
    socket.socket.connect = _no_network  # type: ignore[method-assign]
    socket.getaddrinfo = _no_network
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    scan = SCANNERS[name]()
    for path in paths:
        begun = time.perf_counter()
        told: Verdict
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                if mode == "folder":
                    _folder(scan, name, path)
                    told = "done", ""
                else:
                    told = scan(path)
            except BaseException as error:
                told = "error", f"{type(error).__name__}: {error}"[:200]
        line = {"path": path, "verdict": told[0], "detail": told[1], "seconds": time.perf_counter() - begun}
        out.write(json.dumps(line) + "\n")
        out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:3])
