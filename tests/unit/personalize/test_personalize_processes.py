"""Two processes train what one does that accumulates twice as many micro-batches; only the main one writes."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from auditor.personalize.blocks import processes
from auditor.personalize.blocks.processes import NotMain, Team, device_here, joined, only_main


def test_alone_nothing_is_added_up_and_everything_is_written():
    parameter = nn.Parameter(torch.ones(3))
    with joined(cpu=True) as team:
        assert team == Team() and team.main
        assert team.add_up([parameter], 0.25) == 0.25 and parameter.grad is None
        team.wait()
        only_main()


def test_a_process_that_is_not_the_main_one_may_not_write(monkeypatch, tmp_path):
    from auditor.personalize.blocks.saving import make_folder, write_sidecar

    monkeypatch.setattr(Team, "current", classmethod(lambda cls: cls(1, 2)))
    for write in (lambda: make_folder(tmp_path / "x"), lambda: write_sidecar(tmp_path, {})):
        with pytest.raises(NotMain):
            write()
    assert not list(tmp_path.iterdir())


def test_gradients_of_two_processes_are_added_up_in_pieces(monkeypatch):
    """The other process's share is stood in for: twice what it gets, as if it had the same."""
    from torch import distributed

    sent = []
    monkeypatch.setattr(distributed, "all_reduce", lambda values: (sent.append(values.numel()), values.mul_(2)))
    monkeypatch.setattr(processes, "_BUCKET", 4)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (3,), (2,), (5,))]
    for i, parameter in enumerate(parameters[:3]):
        parameter.grad = torch.full_like(parameter, float(i + 1))
    assert Team(0, 2).add_up(parameters, 0.5) == 1.0
    assert [None if p.grad is None else set(p.grad.reshape(-1).tolist()) for p in parameters] == [{2}, {4}, {6}, None]
    assert sent == [5, 4, 5]


def test_each_process_of_a_machine_has_an_accelerator_of_its_own(monkeypatch):
    assert device_here("auto") == "auto"
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_here("auto") == device_here("cuda") == "cuda:1"
    assert (device_here("cuda:0"), device_here("cpu")) == ("cuda:0", "cpu")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert device_here("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (device_here("auto"), device_here("cuda")) == ("cpu", "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_processes_train_what_one_does_with_twice_the_batch(tiny_folders, folder_of, tmp_path, precision):
    photos, base = folder_of("photos", 3), str(tiny_folders("sd1"))

    def train(out, *launcher, more=()):
        command = [
            sys.executable, *launcher, "-m", "auditor", "personalize", "dreambooth-lora", "--images", str(photos),
            "--base", base, "--device", "cpu", "--steps", "5", "--batch", "2", "--rank", "2", "--precision", precision,
            "--class-prompt", "a ball", "--class-images", "2", "--validate-every", "5", "--validate-prompt", "a ball",
            "-o", str(tmp_path / out), *more,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        return done

    train("one", more=("--accumulate", "2"))
    said = train("two", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    assert said.stdout.strip() == str(tmp_path / "two" / "pytorch_lora_weights.safetensors")
    assert said.stderr.count("1/5") == 1
    one, two = (load_file(tmp_path / out / "pytorch_lora_weights.safetensors") for out in ("one", "two"))
    assert one.keys() == two.keys() and any(bool(v.abs().max() > 1e-3) for k, v in one.items() if "lora_B" in k)
    for key, value in one.items():
        torch.testing.assert_close(two[key].float(), value.float(), atol=1e-4, rtol=1e-3)
    assert {p.name for p in (tmp_path / "one").iterdir()} == {p.name for p in (tmp_path / "two").iterdir()}
