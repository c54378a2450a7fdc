"""Nothing reports home, and no handler of ours is left in a child."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub import client_environment
from hub_writes import User, serve_writable_hub
from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT
from places import REPOSITORY

from hf_imgcls.arguments.fields import EXPORT_FORMATS
from hf_imgcls.compat.models import TRANSFORMERS_MAJOR

_SHOW = """
import json, os, sys
import hf_imgcls
names = ("HF_HUB_DISABLE_TELEMETRY", "GRADIO_ANALYTICS_ENABLED", "WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY")
print(json.dumps([{name: os.environ[name] for name in names}, sys.modules.get("openvino_telemetry", "free") is None]))
"""


def run_python(code: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and name != "CI"}
    environment |= {"PYTHONPATH": str(REPOSITORY), "HOME": str(home), **variables}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


def test_telemetry_is_off_unless_the_user_turns_it_on(tmp_path):
    switches, is_blocked = json.loads(run_python(_SHOW, tmp_path).stdout)
    assert switches == {
        "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_ANALYTICS_ENABLED": "False",
        "WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    assert is_blocked
    # What `opt_in_out --opt_in` of OpenVINO writes, and switches that are set.
    (tmp_path / "intel").mkdir()
    (tmp_path / "intel" / "openvino_telemetry").write_text("1")
    wanted = {"HF_HUB_DISABLE_TELEMETRY": "0", "GRADIO_ANALYTICS_ENABLED": "True"}
    switches, is_blocked = json.loads(run_python(_SHOW, tmp_path, **wanted).stdout)
    assert switches.items() >= wanted.items()
    assert not is_blocked
    (tmp_path / "intel" / "openvino_telemetry").write_text("0")
    assert json.loads(run_python(_SHOW, tmp_path).stdout)[1]


@pytest.mark.slow
def test_nncf_finds_nothing_to_send_with(tmp_path):
    pytest.importorskip("nncf")
    code = """
    from hf_imgcls.extras import require
    require("openvino", "nncf")
    import nncf.telemetry.wrapper, openvino.tools.ovc.telemetry_utils as ovc
    print(type(nncf.telemetry.wrapper.telemetry).__name__, ovc.tm.__name__)
    """
    out = run_python("\n".join(line.strip() for line in code.splitlines()), tmp_path).stdout
    assert out.split() == ["MagicMock", "openvino.tools.ovc.telemetry_stub"]
    assert not (tmp_path / "intel").exists()


_FORK = """
import ctypes, os, signal, time
from hf_imgcls.commands.command import run_recipe

def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    child = os.fork()
    if not child:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ctypes.CDLL(None).sleep(60)  # where no handler in Python is run
        os._exit(0)
    time.sleep(0.5)
    os.kill(child, signal.SIGTERM)
    start = time.monotonic()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert time.monotonic() - start < 30

run_recipe(main)
"""


def test_a_forked_child_ends_by_a_signal(tmp_path):
    assert int(run_python(_FORK, tmp_path).stdout) == -signal.SIGTERM


_FULL = """
import sys
from pathlib import Path
from hf_imgcls.commands.command import run_recipe

def main():
    try:
        Path("/dev/full").write_text("x")
    except OSError as error:
        if sys.argv[1] == "chained":
            raise RuntimeError("a library gave up") from error
        if sys.argv[1] == "text":
            raise RuntimeError("I/O error: No space left on device (os error 28)") from None
        raise

run_recipe(main)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", ["plain", "chained", "text"])
def test_a_full_disk_is_one_sentence(tmp_path, kind):
    command = [sys.executable, "-c", _FULL, kind]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "error: there is no room to write" in result.stderr
    assert "No space left on device" in result.stderr
    assert "to fix:" in result.stderr
    assert "Traceback" not in result.stderr


# Runs in every Python process before anything else, children of children as well.
_WATCH = """
import os, sys

def watch(event, args):
    if event not in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        return
    place = args[0] if event.startswith("socket.get") else args[1]
    host = place[0] if isinstance(place, tuple) else place
    if event.startswith("socket.get") or isinstance(place, tuple):  # else a socket of this machine
        if host not in ("127.0.0.1", "::1", "localhost", None, ""):
            write(f"{event} {host!r} by {sys.argv[:2]}")

def write(line):
    descriptor = os.open(os.environ["WATCHED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (line + "\\n").encode())
    os.close(descriptor)

write("process")
sys.addaudithook(watch)
"""


@pytest.mark.slow
def test_no_command_connects_to_anything(tmp_path):
    """Train, measure, export to every format that is installed, and push to a Hub on the loopback.

    Without ``CI`` in the environment, which keeps some libraries from it; and no command leaves a process behind.
    """
    watched, run = tmp_path / "watched.txt", tmp_path / "run"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_WATCH)
    with serve_writable_hub(tmp_path / "hub") as hub:
        hub.users["hf_" + "x" * 20] = User()
        environment = client_environment(
            hub, tmp_path / "home", PYTHONPATH=f"{tmp_path / 'site'}{os.pathsep}{REPOSITORY}", WATCHED=str(watched),
            HF_TOKEN="hf_" + "x" * 20, HF_HUB_DISABLE_XET="1", HOME=str(tmp_path),
        )  # fmt: skip
        for name in ("CI", "TF_BUILD", "JENKINS_URL", "HF_HUB_DISABLE_TELEMETRY"):
            environment.pop(name, None)

        def call(recipe: str, *flags: object) -> None:
            command = [sys.executable, str(REPOSITORY / "recipes" / f"{recipe}.py"), *map(str, flags)]
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )  # fmt: skip
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, output[-4000:]
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)  # nobody that it started is left

        call("finetune", *SMALL_DIGITS, *TINY_VIT, "--max_steps", "4", "--output_dir", run)
        call("measure", "--model_name_or_path", run, "--output_dir", run)
        call("export", run, "--formats", *list_formats(), "--calibration_samples", "8", "--max_accuracy_drop", "1")
        call("push", run, "--hub_model_id", "me/digits")
        assert "onnx/model.onnx" in hub.find("me/digits").tree() or not list_formats()
    lines = watched.read_text().splitlines()
    assert lines.count("process") >= 6  # four commands and the push's two consumers
    assert [line for line in lines if line != "process"] == []
    assert not (tmp_path / "intel").exists()  # where OpenVINO's telemetry keeps its id


def list_formats() -> list[str]:
    """The formats whose packages are installed; AOTInductor's compiler takes a minute."""
    from importlib.util import find_spec

    needed = {"onnx": "onnxruntime", "openvino": "openvino", "executorch": "executorch", "tflite": "litert_torch"}
    if TRANSFORMERS_MAJOR < 5:
        needed |= {"onnx": "optimum", "openvino": "optimum"}
    packages = {name: needed.get(name.partition("_")[0], "torch") for name in EXPORT_FORMATS if name != "aot_inductor"}
    return [name for name, package in packages.items() if find_spec(package) is not None]
