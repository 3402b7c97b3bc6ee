"""``publish.py`` against an npm that does on demand what registries and networks do."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shell_tool_release import publish
from shell_tool_release.npm import TarMember, tarball
from shell_tool_release.publish import Npm, Offer, PublishError, RefusedError, RegistryError, Timing, npm_tag, offer

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = Timing(pause=0.01, patience=20, look_seconds=20, publish_seconds=20)

NPM = r"""#!/usr/bin/env python3
import base64, hashlib, json, os, sys, time
place = os.environ["FAKE_REGISTRY"]
with open(place) as stream:
    state = json.load(stream)
command, spec, *rest = sys.argv[1:]
data = open(spec, "rb").read() if command == "publish" else b""
call = {"argv": sys.argv[1:], "names": sorted(os.environ), "pid": os.getpid()}
state["calls"].append({**call, "sha256": hashlib.sha256(data).hexdigest()})

def end(status, code=""):
    with open(place, "w") as stream:
        json.dump(state, stream)
    if code and command == "view":
        print(json.dumps({"error": {"code": code, "summary": "on demand"}}))
    elif code:
        print("npm error code " + code, file=sys.stderr)
    sys.exit(status)

def take():
    version = spec.rpartition("-npm-")[2].removesuffix(".tgz")
    state["versions"][version] = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    state["tags"][rest[rest.index("--tag") + 1]] = version
    state["plan"]["view"] += state["hide"]
    state["hide"] = []

planned = state["plan"][command].pop(0) if state["plan"][command] else ""
if planned == "hang":
    with open(place, "w") as stream:
        json.dump(state, stream)
    time.sleep(600)
if planned == "garbage":
    print("<html>")
    end(0)
if planned.startswith("taken "):
    take()
    planned = planned.removeprefix("taken ")
if planned == "lost":
    end(0)
if planned:
    end(1, planned)
if command == "publish":
    if "--dry-run" not in rest:
        take()
elif rest[0] == "dist.integrity":
    found = state["versions"].get(spec.rpartition("@")[2])
    if found is None:
        end(1, "E404")
    print(json.dumps(found))
else:
    print(json.dumps(state["tags"]))
end(0)
"""


class Fake:
    """The registry's state, kept in a file, and npm's environment."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "registry.json"
        (folder / "bin").mkdir()
        program = folder / "bin" / "npm"
        program.write_text(NPM.replace("/usr/bin/env python3", f"{sys.executable} -IS"))
        program.chmod(0o755)
        self.path = f"{folder / 'bin'}:{os.environ['PATH']}"
        self.environ = {**os.environ, "PATH": self.path, "FAKE_REGISTRY": str(self.file)}
        empty: dict[str, Any] = {
            "versions": {},
            "tags": {},
            "calls": [],
            "hide": [],
            "plan": {"view": [], "publish": []},
        }
        self.file.write_text(json.dumps(empty))

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.file.read_text())
        return state

    def set(self, **values: Any) -> None:
        self.file.write_text(json.dumps({**self.state(), **values}))

    def plan(self, *, view: tuple[str, ...] = (), publish: tuple[str, ...] = ()) -> None:
        self.set(plan={"view": list(view), "publish": list(publish)})

    def sent(self) -> list[dict[str, Any]]:
        calls = self.state()["calls"]
        return [call for call in calls if call["argv"][0] == "publish" and "--dry-run" not in call["argv"]]

    def publish(self, what: Offer, *, really: bool = True, timing: Timing = QUICK) -> str:
        return publish.publish(what, Npm(timing, self.environ), timing, really=really)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake(tmp_path)
    monkeypatch.setenv("PATH", made.path)  # Popen looks for the program here, not in the environment it hands on
    return made


def _package(folder: Path, version: str = "1.2.3", **more: Any) -> Path:
    document = {"name": publish.NAME, "version": version, **more}
    path = folder / f"{publish.NAME}-npm-{version}.tgz"
    path.write_bytes(tarball([TarMember(name="package.json", data=json.dumps(document).encode())]))
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _offer(folder: Path, version: str = "1.2.3", **more: Any) -> Offer:
    path = _package(folder, version, **more)
    return offer(path, _sha256(path), f"v{version}")


@pytest.mark.parametrize(
    ("version", "tag"),
    [
        ("1.2.3", "latest"),
        ("0.0.0", "latest"),
        ("10.20.30", "latest"),
        ("1.2.3-alpha.1", "alpha"),
        ("1.2.3-alpha.0", "alpha"),
        ("1.2.3-alpha.10", "alpha"),
        ("1.2.3-alpha", None),
        ("1.2.3-alpha.", None),
        ("1.2.3-alpha.1.2", None),
        ("1.2.3-alpha.01", None),
        ("1.2.3-Alpha.1", None),
        ("1.2.3-beta.1", None),
        ("1.2.3-rc.1", None),
        ("1.2.3+build", None),
        ("1.2.3-alpha.1+build", None),
        ("1.2", None),
        ("1.2.3.4", None),
        ("01.2.3", None),
        ("v1.2.3", None),
        ("1.2.3\n", None),
        ("1.2.3-alpha.1\n", None),
        ("\n1.2.3", None),
        (" 1.2.3", None),
        ("1.2.3\n1.2.4", None),
        ("١.٢.٣", None),
        ("", None),
    ],
)
def test_which_versions_are_published_as_what(version: str, tag: str | None) -> None:
    assert npm_tag(version) == tag


def test_it_is_one_file_of_the_standard_library() -> None:
    """It runs where there is no checkout."""
    tree = ast.parse(Path(publish.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module is not None}
    assert {name.partition(".")[0] for name in names | froms} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "tag", ["1.2.3", "v1.2.4", "v1.2.3\n", "V1.2.3", "v1.2.3-beta.1", "refs/tags/v1.2.3", "vv1.2.3", ""]
)
def test_a_tag_of_another_version_or_form_is_refused(tmp_path: Path, tag: str) -> None:
    path = _package(tmp_path)
    with pytest.raises(RefusedError, match="tag"):
        offer(path, _sha256(path), tag)


def test_a_tarball_that_was_swapped_is_refused(tmp_path: Path) -> None:
    built = _sha256(_package(tmp_path))
    swapped = _package(tmp_path, description="another")
    with pytest.raises(RefusedError, match="is not what was built"):
        offer(swapped, built, "v1.2.3")


def test_what_was_checked_is_sent_whatever_becomes_of_the_file(tmp_path: Path, fake: Fake) -> None:
    path = _package(tmp_path)
    built = _sha256(path)
    what = offer(path, built, "v1.2.3")
    _package(tmp_path, description="swapped after the check")
    fake.publish(what)
    assert [call["sha256"] for call in fake.sent()] == [built]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"name": "another"}, "calls itself another@1.2.3"),
        ({"version": "1.2.4"}, "calls itself codex-shell-tool-mcp@1.2.4"),
        ({"version": None}, "calls itself"),
        ({"scripts": {"postinstall": "true"}}, "has scripts"),
        ({"private": True}, "is private"),
        ({"publishConfig": {"access": "public", "tag": "latest"}}, "says where to publish to"),
        ({"publishConfig": {"registry": "http://127.0.0.1/"}}, "says where to publish to"),
    ],
)
def test_a_package_of_another_name_or_nature_is_refused(tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    document = {"name": publish.NAME, "version": "1.2.3", **more}
    path = tmp_path / f"{publish.NAME}-npm-1.2.3.tgz"
    path.write_bytes(tarball([TarMember(name="package.json", data=json.dumps(document).encode())]))
    with pytest.raises(RefusedError, match=reason):
        offer(path, _sha256(path), "v1.2.3")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive",
        tarball([])[:-200] + bytes(200),
        tarball([]),
        tarball([TarMember(name="package.json", data=b"[]")]),
    ],
)
def test_what_is_no_package_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / f"{publish.NAME}-npm-1.2.3.tgz"
    path.write_bytes(data)
    with pytest.raises(RefusedError, match="package"):
        offer(path, _sha256(path), "v1.2.3")


def test_the_bytes_that_were_hashed_are_the_ones_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read once: one that is swapped right after is neither looked at nor sent."""
    path = _package(tmp_path)
    built, read = _sha256(path), Path.read_bytes

    def swap(asked: Path) -> bytes:
        data = read(asked)
        asked.write_bytes(b"swapped")
        return data

    monkeypatch.setattr(Path, "read_bytes", swap)
    assert offer(path, built, "v1.2.3").version == "1.2.3"


@pytest.mark.parametrize("names", [("package", "package"), ("package", "other"), ("./package", "x")])
def test_two_package_jsons_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    """npm would take the last one, this script the first; npm takes away the top folder, whatever its name."""
    path = tmp_path / f"{publish.NAME}-npm-1.2.3.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for top, version in zip(names, ("1.2.3", "6.6.6"), strict=True):
            data = json.dumps({"name": publish.NAME, "version": version}).encode()
            header = tarfile.TarInfo(f"{top}/package.json")
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    with pytest.raises(RefusedError, match="holds no single package"):
        offer(path, _sha256(path), "v1.2.3")


def test_a_missing_tarball_is_said(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="was the artefact downloaded"):
        offer(tmp_path / "nothing.tgz", "0" * 64, "v1.2.3")


@pytest.mark.parametrize(("version", "tag"), [("1.2.3", "latest"), ("1.2.3-alpha.4", "alpha")])
def test_published_under_its_tag(tmp_path: Path, fake: Fake, version: str, tag: str) -> None:
    what = _offer(tmp_path, version)
    assert fake.publish(what) == f"published {publish.NAME}@{version} as {tag}"
    state = fake.state()
    assert state["versions"] == {version: what.integrity}
    assert state["tags"] == {tag: version}
    (call,) = fake.sent()
    assert call["argv"][call["argv"].index("--loglevel") + 1] == "verbose"


def test_a_dry_run_sends_nothing(tmp_path: Path, fake: Fake) -> None:
    assert fake.publish(_offer(tmp_path), really=False).startswith("dry run: would publish")
    assert fake.sent() == []
    assert fake.state()["versions"] == {}
    assert [call["argv"][-1] for call in fake.state()["calls"] if call["argv"][0] == "publish"] == ["--dry-run"]


def test_a_dry_run_finds_what_would_be_refused(tmp_path: Path, fake: Fake) -> None:
    fake.set(versions={"1.2.3": "sha512-other"})
    with pytest.raises(RefusedError, match="with other bytes"):
        fake.publish(_offer(tmp_path), really=False)
    fake.set(versions={})
    fake.plan(publish=("EUSAGE",))
    with pytest.raises(RegistryError, match=r"would not publish .* \(EUSAGE\)"):
        fake.publish(_offer(tmp_path), really=False)


def test_again_is_success_without_sending(tmp_path: Path, fake: Fake) -> None:
    """A run that was interrupted after the publish and before the rest of the release is simply started again."""
    what = _offer(tmp_path)
    fake.publish(what)
    assert "already published with these bytes" in fake.publish(what)
    assert len(fake.sent()) == 1


def test_again_is_success_after_a_newer_release(tmp_path: Path, fake: Fake) -> None:
    what = _offer(tmp_path)
    fake.publish(what)
    fake.publish(_offer(tmp_path, "1.3.0"))
    assert "already published" in fake.publish(what)
    assert fake.state()["tags"] == {"latest": "1.3.0"}


def test_other_bytes_under_the_version_are_an_error(tmp_path: Path, fake: Fake) -> None:
    fake.publish(_offer(tmp_path))
    with pytest.raises(RefusedError, match="is published with other bytes"):
        fake.publish(_offer(tmp_path, description="built another time"))
    assert len(fake.sent()) == 1


@pytest.mark.parametrize("code", ["E409", "E500", "E503", "ETIMEDOUT", "ECONNRESET", "TLOG_CREATE_ENTRY_ERROR"])
def test_what_passes_is_tried_again(tmp_path: Path, fake: Fake, code: str) -> None:
    fake.plan(publish=(code, code))
    assert fake.publish(_offer(tmp_path)).startswith("published")
    assert len(fake.sent()) == 3


def test_what_does_not_pass_fails_after_three_attempts(tmp_path: Path, fake: Fake) -> None:
    fake.plan(publish=("E503",) * 4)
    with pytest.raises(RegistryError, match=r"\(E503\).*running this again is safe"):
        fake.publish(_offer(tmp_path))
    assert len(fake.sent()) == 3


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("ENEEDAUTH", "trusted publisher"),
        ("E404", "first version is published by hand"),
        ("E422", "package.json must name the repository"),
        ("E413", "too large"),
        ("EODD", "reason stands above"),
    ],
)
def test_what_cannot_pass_is_not_tried_again(tmp_path: Path, fake: Fake, code: str, advice: str) -> None:
    fake.plan(publish=(code,))
    with pytest.raises(RegistryError, match=advice):
        fake.publish(_offer(tmp_path))
    assert len(fake.sent()) == 1


@pytest.mark.parametrize("code", ["E409", "E500", "E403", "ETIMEDOUT"])
def test_an_error_for_what_was_taken_is_success(tmp_path: Path, fake: Fake, code: str) -> None:
    fake.plan(publish=(f"taken {code}",))
    assert fake.publish(_offer(tmp_path)).startswith("published")
    assert len(fake.sent()) == 1


def test_another_publisher_of_the_same_version_is_noticed(tmp_path: Path, fake: Fake) -> None:
    """Between the look and the publish somebody else's bytes came in."""
    fake.set(versions={"1.2.3": "sha512-somebody"})
    fake.plan(view=("E404",), publish=("E409",))
    with pytest.raises(RefusedError, match="with other bytes"):
        fake.publish(_offer(tmp_path))
    assert len(fake.sent()) == 1


def test_a_publish_that_hangs_is_ended_and_tried_again(tmp_path: Path, fake: Fake) -> None:
    fake.plan(publish=("hang",))
    impatient = Timing(pause=0.01, patience=20, look_seconds=20, publish_seconds=1.5)
    assert fake.publish(_offer(tmp_path), timing=impatient).startswith("published")
    assert len(fake.sent()) == 2


def test_a_cancelled_run_leaves_no_npm(tmp_path: Path, fake: Fake) -> None:
    fake.plan(publish=("hang",))
    path = _package(tmp_path)
    command = [sys.executable, "-I", publish.__file__, str(path), "--sha256", _sha256(path), "--release-tag", "v1.2.3"]
    identity = {"GITHUB_ACTIONS": "true", **dict.fromkeys(publish.IDENTITY, "something")}
    with subprocess.Popen([*command, "--publish"], env={**fake.environ, **identity}) as run:
        _until(lambda: bool(fake.sent()))
        npm = fake.sent()[0]["pid"]
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 143
    _until(lambda: _is_gone(npm))


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _until(holds: Callable[[], bool]) -> None:
    """Wait for what must come; the file of the state is being written now and then."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(ValueError):
            if holds():
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_version_that_shows_late_is_waited_for(tmp_path: Path, fake: Fake) -> None:
    fake.set(hide=["E404", "E404", "E502"])
    assert fake.publish(_offer(tmp_path)).startswith("published")
    assert len(fake.sent()) == 1


def test_a_version_that_never_shows_is_an_error_that_says_to_run_again(tmp_path: Path, fake: Fake) -> None:
    fake.plan(publish=("lost",))
    with pytest.raises(RegistryError, match=r"has not shown it as latest .* run this again later"):
        fake.publish(_offer(tmp_path), timing=Timing(pause=0.01, patience=0.1))


@pytest.mark.parametrize("answer", ["E500", "E503", "ETIMEDOUT", "garbage"])
def test_a_registry_that_cannot_say_what_it_has_gets_nothing(tmp_path: Path, fake: Fake, answer: str) -> None:
    """Not to know is not the same as not to have."""
    fake.plan(view=(answer,) * 9)
    with pytest.raises(RegistryError, match="does not say what it knows"):
        fake.publish(_offer(tmp_path))
    assert fake.sent() == []


def test_latest_does_not_move_back(tmp_path: Path, fake: Fake) -> None:
    fake.set(tags={"latest": "1.10.0"})
    with pytest.raises(RefusedError, match=r"`latest` is 1\.10\.0, newer than 1\.9\.9"):
        fake.publish(_offer(tmp_path, "1.9.9"))
    assert fake.publish(_offer(tmp_path, "1.9.9-alpha.1")).startswith("published")
    assert fake.publish(_offer(tmp_path, "1.11.0")).startswith("published")


def test_a_first_alpha_or_bootstrap_as_latest_is_no_obstacle(tmp_path: Path, fake: Fake) -> None:
    """A registry makes the first version of a package ``latest``, whatever its tag."""
    for latest in ("0.0.0-bootstrap.0", "2.0.0-alpha.1"):
        fake.set(tags={"latest": latest}, versions={})
        assert fake.publish(_offer(tmp_path)).startswith("published")


def test_npm_gets_no_secret_of_the_machine(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.environ |= {"NODE_AUTH_TOKEN": "x", "NPM_TOKEN": "x", "NPM_ID_TOKEN": "x", "NPM_CONFIG__AUTH": "x"}
    fake.environ |= {"npm_config_//host/:_authToken": "x", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "x"}
    fake.publish(_offer(tmp_path))
    for call in fake.state()["calls"]:
        assert "ACTIONS_ID_TOKEN_REQUEST_TOKEN" in call["names"]
        assert not {name for name in call["names"] if "auth" in name.lower() or name.startswith("NPM_")}


def _main(path: Path, *options: str) -> int:
    command = [str(path), "--sha256", _sha256(path), "--release-tag", "v1.2.3", "--pause", "0.01", *options]
    return publish.main(command)


def test_publishing_needs_a_workflows_identity(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_REGISTRY", str(fake.file))
    for name in ("GITHUB_ACTIONS", *publish.IDENTITY):
        monkeypatch.delenv(name, raising=False)
    path = _package(tmp_path)
    assert _main(path, "--publish") == 3
    assert "id-token: write" in capfd.readouterr().err
    assert fake.state()["calls"] == []
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for name in publish.IDENTITY:
        assert _main(path, "--publish") == 3
        monkeypatch.setenv(name, "something")
    assert _main(path, "--publish") == 0
    assert len(fake.sent()) == 1


def test_without_the_option_it_is_a_dry_run(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_REGISTRY", str(fake.file))
    assert _main(_package(tmp_path)) == 0
    assert "dry run" in capfd.readouterr().out
    assert fake.sent() == []


def test_without_npm_it_says_what_to_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RegistryError, match="must set up Node 24"):
        publish.publish(_offer(tmp_path), Npm(QUICK, {"PATH": str(tmp_path)}), QUICK, really=True)


def test_exit_codes_differ() -> None:
    assert len({kind.exit_code for kind in (PublishError, RefusedError, RegistryError)} - {0, 2}) == 3
