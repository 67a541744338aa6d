"""Every check of the project, each a session: ``nox`` runs all of them but ``bench``, ``mutants`` and ``certs``.

Sessions that run code, run it on every supported Python that this machine has (`find_pythons`); those
that it does not have are no error. What a session installs is named in ``pyproject.toml``, in the
dependency group of the same name.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

import nox
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"

ROOT = Path(__file__).parent.resolve()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OLDEST = (3, 11)
NEWEST = (3, 99)

PROBE = (
    "import json, sys; "
    "print(json.dumps([sys.implementation.name, sys.version_info.releaselevel, *sys.version_info[:2], sys.executable]))"
)
PROBE_SECONDS = 20


# ---- which Pythons ---------------------------------------------------------------------------------


def candidate_interpreters() -> list[Path]:
    """Return what may be a Python: the one that runs this, those of pyenv, then all on PATH."""
    home = Path.home()
    roots = [os.environ.get("PYENV_ROOT"), home / ".pyenv"]
    if pyenv := shutil.which("pyenv"):
        answer = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False)
        roots.insert(0, answer.stdout.strip() or None)
    directories = [directory for root in roots if root for directory in sorted(Path(root).glob("versions/*/bin"))]
    directories += [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]

    base = getattr(sys, "_base_executable", None) or sys.executable
    found: dict[Path, None] = {Path(base): None}
    for directory in directories:
        for name in sorted(directory.glob("python3*")) if directory.is_dir() else []:
            if re.fullmatch(r"python3(\.\d+)?", name.name):
                found[name] = None
    return list(found)


def probe(interpreter: Path) -> tuple[tuple[int, int], Path] | None:
    """Ask an interpreter what it is; None for what does not answer (a shim, say) or is not supported."""
    try:
        answer = subprocess.run(
            [interpreter, "-I", "-c", PROBE], capture_output=True, text=True, check=True, timeout=PROBE_SECONDS
        )
        implementation, level, major, minor, executable = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if implementation != "cpython" or level != "final" or not OLDEST <= (major, minor) <= NEWEST:
        return None
    return (major, minor), Path(executable)


def find_pythons() -> list[str]:
    """Return the supported versions that are here, oldest first, and put them at the head of PATH."""
    found: dict[tuple[int, int], Path] = {}
    seen: set[Path] = set()
    for candidate in candidate_interpreters():
        if (real := candidate.resolve()) in seen:
            continue
        seen.add(real)
        if answer := probe(candidate):
            found.setdefault(*answer)
    ahead = [str(path.parent) for path in found.values()]
    os.environ["PATH"] = os.pathsep.join([*dict.fromkeys(ahead), os.environ.get("PATH", "")])
    return [f"{major}.{minor}" for major, minor in sorted(found)]


PYTHONS = find_pythons()
if not PYTHONS:
    raise SystemExit(f"no Python {OLDEST[0]}.{OLDEST[1]} or newer was found")
OLDEST_FOUND = PYTHONS[0]
FUZZED = next((python for python in PYTHONS if python in ("3.11", "3.12", "3.13")), OLDEST_FOUND)
"""One that atheris is built for."""
EXTRAS = ("certs", "completion", "dns", "health", "lan", "otel", "progress", "prometheus", "uvloop")
"""Extras that tests and types need."""
TESTED = f".[{','.join(EXTRAS)}]"


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, name))


# ---- static checks ---------------------------------------------------------------------------------


@nox.session(python=OLDEST_FOUND)
def lint(session: nox.Session) -> None:
    """Rules and format."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=OLDEST_FOUND)
def types(session: nox.Session) -> None:
    """mypy and pyright, both strict; every symbol that others can see has a type."""
    session.install(*group("types"), "-e", TESTED)
    session.run("mypy")
    # Its own news about newer releases would need the network.
    quiet = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    session.run("pyright", env=quiet)
    # What users see of it: each call in there says which type it has, or that it is wrong.
    session.run("mypy", "tests/typed")
    session.run("pyright", "tests/typed", env=quiet)
    session.run("pyright", "--verifytypes", "wool", "--ignoreexternal", env=quiet)


@nox.session(python=OLDEST_FOUND)
def protos(session: nox.Session) -> None:
    """Generate from ``protos/`` and compare with ``src/``; ``-- --write`` keeps what was generated."""
    session.install(*group("protos"))
    source = ROOT / "protos"
    fresh = Path(session.create_tmp()).resolve() / "generated"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    names = [str(path.relative_to(source)) for path in sorted(source.rglob("*.proto"))]
    protoc = ("python", "-m", "grpc_tools.protoc", f"-I{source}", f"--python_out={fresh}", f"--pyi_out={fresh}")
    session.run(*protoc, *names)
    for stub in fresh.rglob("*.pyi"):
        # protoc leaves out what a message's fields map to, and a partly unknown type is none.
        stub.write_text(re.sub(r"\b_Mapping\b(?=\])", "_Mapping[str, object]", stub.read_text()))

    made = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    kept = {path.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("*_pb2.py*") if path.suffix != ".pyc"}
    drifted = sorted(
        path
        for path in made | kept
        if path not in made or path not in kept or not filecmp.cmp(fresh / path, ROOT / "src" / path, shallow=False)
    )
    if "--write" in session.posargs:
        for path in drifted:
            if path in made:
                shutil.copyfile(fresh / path, ROOT / "src" / path)
            else:
                (ROOT / "src" / path).unlink()
            session.log(f"wrote src/{path}")
    elif drifted:
        session.error(
            "not what protos/ generates: "
            + ", ".join(f"src/{path}" for path in drifted)
            + "; run: nox -s protos -- --write"
        )


# ---- tests -----------------------------------------------------------------------------------------


SIDE_BY_SIDE = ("--numprocesses", "auto", "--maxprocesses", "4", "-m", "not alone")
"""Most tests wait for something; each is alone in its process, and knows nothing of those in others."""


def run_tests(session: nox.Session, *default: str, alone: bool = False) -> None:
    """Run pytest on ``default``, or on the paths among the session's own arguments: one test at a time then.

    ``alone`` says that some of them must not run beside others: these come last.
    """
    if session.posargs:
        named = any((ROOT / argument.split("::")[0]).exists() for argument in session.posargs)
        session.run("python", "-m", "pytest", *(() if named else default), *session.posargs)
        return
    session.run("python", "-m", "pytest", *default, *SIDE_BY_SIDE)
    if alone:
        session.run("python", "-m", "pytest", *default, "-m", "alone")


@nox.session(python=PYTHONS)
def unit(session: nox.Session) -> None:
    """Tests without worker processes."""
    session.install(*group("test"), "-e", TESTED)
    run_tests(session, "tests/unit")


@nox.session(python=PYTHONS)
def integration(session: nox.Session) -> None:
    """Tests on real worker processes."""
    session.install(*group("test"), "-e", TESTED)
    run_tests(session, "tests/integration", alone=True)


@nox.session(python=OLDEST_FOUND)
def sim(session: nox.Session) -> None:
    """Search for plans that break a promise, in a simulated cluster; ``-- --help`` tells the options.

    Without options, a bounded search; and every planted bug is still caught by its stored plan.
    """
    session.install(*group("test"), "-e", ".[sim]")
    # Where a red run blocks others the dice are thrown less often: most of that search is the same every time.
    bounded = ("--profile", "ci", *(("--seconds", "40") if os.environ.get("CI") else ()))
    session.run("python", "-m", "wool.sim", *(session.posargs or bounded))
    if not session.posargs:
        session.run("python", "-m", "pytest", "tests/sim")


@nox.session(python=OLDEST_FOUND)
def docs(session: nox.Session) -> None:
    """Build the site, strictly; run what the pages show and what is in ``examples/``. ``-- serve`` shows the site."""
    session.install(*group("docs"), *group("examples"), "-e", TESTED)
    # Its makers announce a successor on each run.
    quiet = {"NO_MKDOCS_2_WARNING": "1"}
    if "serve" in session.posargs:
        session.run("mkdocs", "serve", env=quiet)
        return
    site = Path(session.create_tmp()).resolve() / "site"
    session.run("mkdocs", "build", "--strict", "--site-dir", str(site), env=quiet)
    session.run("python", "-m", "pytest", "tests/docs", *session.posargs)


@nox.session(python=OLDEST_FOUND, default=False)
def mutants(session: nox.Session) -> None:
    """Search every planted bug from scratch; ``-- --help`` tells the options. The tests replay what was found."""
    session.install("-e", ".[sim]")
    with session.chdir("tests"):
        session.run("python", "-m", "sim.mutants", *session.posargs)


@nox.session(python=FUZZED, default=False)
def fuzz(session: nox.Session) -> None:
    """Search for bytes that break what reads bytes; ``-- --help`` tells the options. Tests replay what is kept."""
    session.install(*group("fuzz"), "-e", TESTED)
    with session.chdir("tests"):
        session.run("python", "-m", "fuzz", *session.posargs)


@nox.session(python=OLDEST_FOUND, default=False)
def certs(session: nox.Session) -> None:
    """Write the certificates of the tests, to look at; ``-- DIRECTORY``. They are made afresh, and belong nowhere."""
    session.install("-e", ".[certs]")
    directory = session.posargs or [str(Path(session.create_tmp()).resolve() / "certificates")]
    session.run("python", "certs/fixtures.py", *directory)
    session.log(f"the certificates are in {directory[0]}")


def lower_bound(requirement: Requirement) -> str:
    """Return ``name==version`` for the oldest version that a dependency of ours allows."""
    bounds = [bound.version for bound in requirement.specifier if bound.operator in (">=", "~=", "==")]
    if len(bounds) != 1:
        raise ValueError(f"pyproject.toml: {requirement} needs exactly one lower bound")
    return f"{canonicalize_name(requirement.name)}=={bounds[0]}"


@nox.session(python=OLDEST_FOUND)
def lowest(session: nox.Session) -> None:
    """The oldest Python with the oldest dependencies that ``pyproject.toml`` allows."""
    constraints = Path(session.create_tmp()).resolve() / "constraints.txt"
    extras = PROJECT["project"]["optional-dependencies"]
    needed = [*PROJECT["project"]["dependencies"], *(text for extra in EXTRAS for text in extras[extra])]
    pins = [lower_bound(Requirement(text)) for text in needed]
    constraints.write_text("".join(f"{pin}\n" for pin in pins))
    session.install(*group("test"), "-e", TESTED, "--constraint", str(constraints))
    session.run("python", "-m", "pip", "freeze", "--exclude-editable")
    run_tests(session, "tests/unit")
    session.run("python", "-m", "pytest", "tests/integration", "-m", "smoke")


# ---- the package -----------------------------------------------------------------------------------


def source_files(directory: str) -> set[str]:
    """Return what belongs to a distribution of ``directory``, relative to the project; no caches of tools."""
    cache = re.compile(r"(^|/)(__pycache__|\.[^/]*)(/|$)")
    names = {path.relative_to(ROOT).as_posix() for path in (ROOT / directory).rglob("*") if path.is_file()}
    return {name for name in names if not cache.search(name)}


def differences(kind: str, found: set[str], wanted: set[str], *, others_allowed: bool) -> list[str]:
    problems = [f"{kind} lacks {name}" for name in sorted(wanted - found)]
    if not others_allowed:
        problems += [f"{kind} holds {name}" for name in sorted(found - wanted)]
    return problems


def check_wheel(wheel: Path) -> list[str]:
    """The package, all of it and nothing else, with its licence."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    information = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    wanted = {name.removeprefix("src/") for name in source_files("src/wool")}
    problems = differences("the wheel", names - information, wanted, others_allowed=False)
    if "wool/py.typed" not in names:
        problems.append("the wheel lacks wool/py.typed")
    if not any(name.endswith("/licenses/LICENSE") for name in information):
        problems.append("the wheel lacks the licence")
    (metadata,) = (name for name in information if name.endswith("/METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    offered = {line.partition(": ")[2] for line in lines if line.startswith("Provides-Extra: ")}
    if offered != set(PROJECT["project"]["optional-dependencies"]):
        problems.append(f"the wheel offers the extras {sorted(offered)}")
    return problems


def check_sdist(sdist: Path) -> list[str]:
    """All that is needed to build, generate, test and read; no build products."""
    with tarfile.open(sdist) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    wanted = source_files("src") | source_files("protos") | source_files("tests") | source_files("examples")
    wanted |= source_files("deploy")
    wanted |= {"pyproject.toml", "noxfile.py", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"}
    wanted |= {"SECURITY.md"}
    problems = differences("the sdist", names, wanted, others_allowed=True)
    unwanted = re.compile(r"(^|/)(__pycache__|\.git|\.nox|\.venv|dist)/|\.py[cod]$")
    return problems + [f"the sdist holds {name}" for name in sorted(names) if unwanted.search(name)]


def check_installed(session: nox.Session, python: str, distribution: Path) -> None:
    """Install into a new environment and run the quick start where no source is near."""
    with tempfile.TemporaryDirectory(prefix="wool-package-") as place:
        run_installed(session, python, distribution, Path(place))


WITHOUT_EXTRAS = """
import wool
wool.StaticDiscovery("10.0.0.1:7000")
for extra, make in {
    "lan": wool.LanDiscovery,
    "dns": lambda: wool.DnsDiscovery("workers"),
    "progress": lambda: wool.map(print, [1], progress=True),
}.items():
    try:
        make()
    except ModuleNotFoundError as error:
        assert f"pip install 'wool[{extra}]'" in str(error), error
    else:
        raise SystemExit(f"wool[{extra}] is not needed")
"""


def run_installed(session: nox.Session, python: str, distribution: Path, place: Path) -> None:
    script = shutil.copy(ROOT / "examples" / "quickstart.py", place)
    session.run(sys.executable, "-m", "virtualenv", "-q", "-p", python, str(place / "venv"), external=True)
    interpreter = str(place / "venv" / "bin" / "python")
    session.run(interpreter, "-m", "pip", "install", "-q", str(distribution), external=True)
    with session.chdir(place):
        session.run(interpreter, "-m", "pip", "check", external=True)
        said = session.run(interpreter, Path(script).name, external=True, silent=True, env={"PYTHONPATH": None})
        # Without the extras nothing of them is needed, and what needs one says which.
        session.run(interpreter, "-c", WITHOUT_EXTRAS, external=True, env={"PYTHONPATH": None})
        command = str(place / "venv" / "bin" / "wool")
        session.run(command, "ps", "--discovery", "local:package", external=True, env={"PYTHONPATH": None})
    if not isinstance(said, str) or said.strip() != "3":
        session.error(f"the quick start printed {said!r} and not 3, installed from {distribution.name}")


@nox.session(python=OLDEST_FOUND)
def package(session: nox.Session) -> None:
    """Build wheel and sdist, look into both, install both, run the quick start."""
    session.install(*group("package"))
    built = Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(built), str(ROOT))
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    if problems := check_wheel(wheel) + check_sdist(sdist):
        session.error("\n".join(problems))
    check_installed(session, OLDEST_FOUND, sdist)
    for python in PYTHONS:
        check_installed(session, python, wheel)


# ---- what others run -------------------------------------------------------------------------------

KUBERNETES = ("1.29", "1.37")
"""The versions against whose schemas `deploy/kubernetes` is checked: an old one that is still met, and a new one."""


@nox.session(python=OLDEST_FOUND)
def deploy(session: nox.Session) -> None:
    """What `deploy` holds is what Kubernetes and cert-manager take, by their own schemas; nothing unknown is in it."""
    session.install(*group("deploy"))
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    for version in KUBERNETES:
        session.run("kubernetes-validate", "--strict", "-k", version, *files)
    session.run("python", "deploy/check.py")


# ---- speed -----------------------------------------------------------------------------------------


@nox.session(python=OLDEST_FOUND, default=False)
def bench(session: nox.Session) -> None:
    """Measure, and print every figure beside its yardstick; ``-- scale`` measures how far it goes, and draws curves."""
    if session.posargs[:1] == ["scale"]:
        session.install(*group("curves"), "-e", ".[lan,sim]")
        session.run("python", "-m", "bench.scale", *session.posargs[1:])
        return
    session.install("-e", ".[certs]")
    session.run("python", "-m", "bench", *session.posargs)
