"""What is half-written: locked while its process lives, known as a leftover afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alref_edge.errors import InputError
from alref_edge.files import (
    PartialFolder,
    discard,
    leftovers,
    open_beside,
    publish,
    unwound_by_signals,
    written_beside,
)

ROOT = Path(__file__).parent.parent
LONG = "a name of more than forty characters, of which the first ones are the same "


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed(place: Path, code: str) -> None:
    """Runs Python code that kills itself with SIGKILL at its end."""
    head = (
        "import os, signal\nfrom pathlib import Path\nfrom alref_edge import files\n"
        "from alref_edge.files import PartialFolder, open_beside\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{head}{code}\nos.kill(os.getpid(), signal.SIGKILL)"],
        cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("name", ["out", ".hidden", "a b.c", "[x]*", "犬" * 85, f"{LONG}1"])
def test_leftovers_are_those_of_one_name_whose_process_is_gone(tmp_path: Path, name: str) -> None:
    code = (
        f"path = Path({name!r}).absolute()\nfolder = PartialFolder(path)\n"
        "(folder.folder / 'x').write_text('x')\nfile = open_beside(path)"
    )
    killed(tmp_path, code)
    left = [path for path in tmp_path.iterdir() if not path.name.endswith("-lock")]
    assert len(left) == 2
    for other in (f"{name[:-1]}2", f"{name[:-1]}", "x"):
        assert leftovers(tmp_path / (other or "y")) == []
    assert sorted(leftovers(tmp_path / name)) == sorted(left)
    assert sorted(leftovers(tmp_path / name, remove=True)) == sorted(left)
    assert leftovers(tmp_path / name) == []
    assert names(tmp_path) == []


def test_what_this_process_writes_is_no_leftover(tmp_path: Path) -> None:
    folder = PartialFolder(tmp_path / "out")
    file, partial = open_beside(tmp_path / "out")
    file.close()  # as the overlay's writer does, whose encoder opens the file by its name
    assert leftovers(tmp_path / "out", remove=True) == []
    assert partial.exists()
    assert folder.folder.exists()
    discard(partial)
    folder.close()
    folder.close()
    assert names(tmp_path) == []


def test_a_private_file_is_its_users_alone_from_the_first_byte(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for private, mode in ((True, 0o600), (False, 0o666)):
            with written_beside(tmp_path / "file", private=private) as file:
                file.write(b"x")
                (partial,) = tmp_path.glob(".file.*")
                assert partial.stat().st_mode & 0o777 == 0o600
            assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_locks_are_given_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with written_beside(tmp_path / "file") as file:
            file.write(b"x")
        folder = PartialFolder(tmp_path / "folder")
        with pytest.raises(InputError, match="Another run is writing"):
            PartialFolder(tmp_path / "folder")
        folder.close()
        with pytest.raises(InputError, match="cannot be written"):
            open_beside(tmp_path / "none" / "file")
        file, partial = open_beside(tmp_path / "file2")
        file.close()
        publish(partial, tmp_path / "file2")
    assert len(os.listdir("/proc/self/fd")) == before
    assert names(tmp_path) == ["file", "file2"]


@pytest.mark.parametrize("there", [False, True])
def test_an_older_result_that_was_moved_aside_is_put_back_or_left_alone(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("years of work")
    code = (
        "a = PartialFolder(Path('out').absolute())\n"
        "rename = Path.rename\n"
        "Path.rename = lambda path, to: rename(path, to) if 'partial' not in path.name else os.kill(os.getpid(), 9)\n"
        "a.publish(replace=True)"
    )
    killed(tmp_path, code)
    assert not out.exists()
    if there:
        out.mkdir()
    left = leftovers(out, remove=True)
    assert sorted(path.name.split("-")[0] for path in left) == [".out.partial", ".out.replaced"]
    (kept,) = tmp_path.glob("**/old.txt")
    assert kept.read_text() == "years of work"
    assert kept.parent.parent.name.startswith(".out.replaced-") == there
    assert not list(tmp_path.glob(".out.partial*"))


def test_a_killed_runs_claim_ends_with_it(tmp_path: Path) -> None:
    killed(tmp_path, "a = PartialFolder(Path('out').absolute())")
    assert ".out.partial-lock" in names(tmp_path)
    folder = PartialFolder(tmp_path / "out")
    folder.publish(replace=False)
    folder.close()
    assert [name for name in names(tmp_path) if "lock" in name] == []


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs another user")
def test_another_users_run_is_alive(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o5)
    first = PartialFolder(shared / "out")
    code = (
        "from pathlib import Path\nfrom alref_edge.errors import InputError\n"
        "from alref_edge.files import PartialFolder, leftovers\n"
        f"print(leftovers({str(shared / 'out')!r}, remove=True))\n"
        f"try: PartialFolder(Path({str(shared / 'out')!r}))\nexcept InputError as error: print(error.message)\n"
    )
    other = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", code]
    done = subprocess.run(
        other, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if "Permission denied" in done.stderr:
        pytest.skip("another user cannot read this checkout")
    assert done.stdout.splitlines() == ["[]", f"Another run is writing to {shared / 'out'}."], done.stderr
    assert first.folder.exists()
    first.close()


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".out.partial-lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        PartialFolder(tmp_path / "out")
    assert names(tmp_path) == [".out.partial-lock", "precious"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_the_unwinding_does_not_reach_is_removed_at_its_end(tmp_path: Path, number: signal.Signals) -> None:
    def interrupted() -> None:
        with unwound_by_signals():
            PartialFolder(tmp_path / "deep" / "out")
            open_beside(tmp_path / "file")
            os.kill(os.getpid(), number)
            signal.pause()

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            interrupted()
        assert names(tmp_path) == []
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_signal_that_a_library_makes_an_error_of_ends_the_program_all_the_same(tmp_path: Path) -> None:
    def loads() -> None:
        with unwound_by_signals():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.pause()
            except SystemExit:
                raise ImportError("initialization failed") from None

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as caught:
            loads()
        assert caught.value.code == 143
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_that_comes_while_the_collector_closes_something_is_not_lost(tmp_path: Path, times: int) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from alref_edge.files import unwound_by_signals\n"
        "def closed_late():\n"
        "    try:\n        yield\n"
        "    finally:\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(1)\n"
        "with unwound_by_signals():\n"
        "    held = [closed_late() for _ in range(int(sys.argv[1]))]\n"
        "    for each in held: next(each)\n"
        "    del each\n"
        "    held.clear()\n"
        "    time.sleep(30)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(times)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (done.returncode, done.stderr) == (143, "")


def test_a_block_without_a_signal_changes_nothing(tmp_path: Path) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with unwound_by_signals():
        folder = PartialFolder(tmp_path / "out")
    assert folder.folder.exists()
    folder.close()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
