"""Builds the CPython that is frozen on Linux, with zig, for every glibc since 2.17.

API::

    build_python(target) -> PortablePython        for a Linux platform, from the cache where it is there
    TRIPLES                                       the platforms it is built for, with their triples
    python -m shell_tool_release.portable_python [--target T ...]

A server frozen with this machine's Python runs on systems as new as this one. This Python is the same everywhere: the
source, zlib and libffi are locked (``data/python.lock.toml``), the compiler is the zig wheel. The modules in C that the
server needs are part of libpython, so that nothing is searched and loaded for them at each start; libpython needs only
glibc. What no frozen server imports (TLS, databases, terminals, archives) is not built.

For this machine's platform the result is a whole Python, which runs the freezer. For another it is what a bundle needs:
libpython and the headers; its pure modules are the same, and compiled the same.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release.archives import fetched, load_archives, unpack
from shell_tool_release.binaries import describe
from shell_tool_release.cache import Key, cache_root, entry
from shell_tool_release.errors import BuildError, ConfigurationError, run_main
from shell_tool_release.licenses import Component, write_component
from shell_tool_release.toolchain import Step, ZigCompiler, build_environ, find_zig, run_step
from shell_tool_release.workspace import cpu_count, host_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shell_tool_release.archives import Archive

GLIBC = (2, 17)
"""The oldest glibc that what is built here runs on: that of manylinux2014, which the wheels are for."""

TRIPLES = {"linux-x64": "x86_64-linux-gnu", "linux-arm64": "aarch64-linux-gnu"}

_FORMAT = 3  # part of the key: raise when what a build leaves behind changes

_LEFT_OUT = (
    *(
        "_bz2",
        "_lzma",
        "_dbm",
        "_gdbm",
        "readline",
        "_curses",
        "_curses_panel",
        "_sqlite3",
        "_ssl",
        "_hashlib",
        "_uuid",
    ),
    *("_tkinter", "_codecs_cn", "_codecs_hk", "_codecs_iso2022", "_codecs_jp", "_codecs_kr", "_codecs_tw"),
    *("_multibytecodec", "_lsprof", "syslog", "_posixshmem"),
    *("_multiprocessing", "_ctypes", "xxsubtype", "_xxtestfuzz", "_testbuffer", "_testinternalcapi", "_testcapi"),
    *("_testlimitedcapi", "_testclinic", "_testclinic_limited", "_testimportmultiple", "_testmultiphase"),
    *("_testsinglephase", "_testexternalinspection", "_ctypes_test", "xxlimited", "xxlimited_35"),
    *("pyexpat", "_elementtree", "cmath", "mmap", "termios"),
)
"""Modules in C that are not in libpython. Two are built apart, for the freezer (:data:`_FOR_THE_FREEZER`)."""

_FOR_THE_FREEZER = """\
*shared*
_ctypes _ctypes/_ctypes.c _ctypes/callbacks.c _ctypes/callproc.c _ctypes/stgdict.c _ctypes/cfield.c \
    -I../libffi/include ../deps/libffi.a
pyexpat pyexpat.c expat/xmlparse.c expat/xmlrole.c expat/xmltok.c \
    -I$(srcdir)/Modules/expat -DHAVE_EXPAT_CONFIG_H -DXML_STATIC
"""
"""Its modules import these; no server does. Lines of CPython's ``Modules/Setup.local``."""

_NOT_INSTALLED = frozenset({"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "pydoc_data", "__phello__"})
"""Folders of the standard library that neither the freezer nor the server imports."""

_CFLAGS = (
    "-fno-semantic-interposition",
    "-fomit-frame-pointer",
    # The thread's state is read in every allocation; a library loaded at the start may use the fast way to it.
    "-ftls-model=initial-exec",
    "-fno-sanitize=all",
    "-Wno-error=date-time",
    "-Wno-date-time",
)
_LDFLAGS = (
    "-s",
    # Else each call between two files of libpython goes through a table that the loader fills: a fifth of the time.
    "-Wl,-Bsymbolic",
)

_MORE_LICENSES = {"cpython": ("Doc/license.rst",)}
"""What CPython's own text leaves out: notices of others' code that is part of it (libmpdec, mimalloc, HACL*, …)."""

_ZLIB = tuple(
    f"{name}.c"
    for name in (
        *("adler32", "compress", "crc32", "deflate", "infback", "inffast", "inflate", "inftrees", "trees"),
        *("uncompr", "zutil"),
    )
)

_FFI_COMMON = tuple(f"src/{name}.c" for name in ("prep_cif", "types", "raw_api", "java_raw_api", "closures", "tramp"))
_FFI = {
    "linux-x64": ("X86_64", "x86", tuple(f"src/x86/{name}" for name in ("ffi64.c", "ffiw64.c", "unix64.S", "win64.S"))),
    "linux-arm64": ("AARCH64", "aarch64", ("src/aarch64/ffi.c", "src/aarch64/sysv.S")),
}
"""Name of the target in ffi.h, folder, and sources by platform."""

_FFI_CONFIG = """\
#define EH_FRAME_FLAGS "a"
#define FFI_EXEC_STATIC_TRAMP 1
#define HAVE_ALLOCA_H 1
#define HAVE_AS_CFI_PSEUDO_OP 1
#define HAVE_AS_X86_64_UNWIND_SECTION_TYPE 1
#define HAVE_AS_X86_PCREL 1
#define HAVE_HIDDEN_VISIBILITY_ATTRIBUTE 1
#define HAVE_INTTYPES_H 1
#define HAVE_LONG_DOUBLE 1
#define HAVE_MEMCPY 1
#define HAVE_RO_EH_FRAME 1
#define HAVE_STDINT_H 1
#define SIZEOF_DOUBLE 8
#define SIZEOF_LONG_DOUBLE 16
#define SIZEOF_SIZE_T 8
#define STDC_HEADERS 1
#ifdef LIBFFI_ASM
#define FFI_HIDDEN(name) .hidden name
#else
#define FFI_HIDDEN __attribute__((visibility("hidden")))
#endif
"""
"""What libffi's configure finds on Linux with clang; Debian's source holds no generated configure."""


@dataclass(frozen=True, kw_only=True)
class PortablePython:
    """A finished build: ``prefix`` holds ``bin`` (only for this machine's platform), ``lib`` and ``include``.

    ``licenses`` holds the texts of what is in libpython. Both are in the cache and must not be written.
    """

    target: str
    version: str
    digest: str
    prefix: Path
    licenses: Path
    reused: bool

    @property
    def short(self) -> str:
        """``3.13``."""
        return self.version.rpartition(".")[0]

    @property
    def program(self) -> Path:
        """The interpreter."""
        return self.prefix / "bin" / f"python{self.short}"

    @property
    def library(self) -> Path:
        """The shared libpython."""
        return self.prefix / "lib" / f"libpython{self.short}.so.1.0"

    @property
    def headers(self) -> Path:
        """Folder of ``Python.h`` and ``pyconfig.h``."""
        return self.prefix / "include" / f"python{self.short}"


@dataclass(frozen=True, kw_only=True)
class _Build:
    """One build and where it happens: ``src``, ``obj``, ``deps`` and ``tools`` are below ``work``."""

    target: str
    compiler: ZigCompiler
    archives: dict[str, Archive]
    builder: PortablePython | None
    work: Path
    log: Path
    cache: Path

    def run(self, name: str, *command: str, cwd: Path) -> None:
        environ = build_environ(
            folder=self.work, cache=self.cache, epoch=self.archives["cpython"].epoch, tools=self.work / "tools"
        )
        # All modules in C become part of libpython but those Setup.local names.
        run_step(
            Step(name=f"Python for {self.target}: {name}", command=command),
            cwd=cwd,
            environ=environ | {"MODULE_BUILDTYPE": "static"},
            log=self.log,
        )


def build_python(target: str, *, quiet: bool = False) -> PortablePython:
    """Build the Python for ``target``, or return it from the cache.

    Raises:
        ConfigurationError: Not a Linux platform.
        BuildError: A step failed; the text names the log and shows its end.
    """
    if target not in TRIPLES:
        message = f"no portable Python for {target}; it is built for {', '.join(TRIPLES)}"
        raise ConfigurationError(message)
    # Building for another platform needs the same Python here, for the modules it freezes into libpython.
    builder = None if target == host_platform() else build_python(host_platform(), quiet=quiet)
    cache, archives = cache_root(), load_archives()
    compiler = ZigCompiler(zig=find_zig(), target=f"{TRIPLES[target]}.{GLIBC[0]}.{GLIBC[1]}")
    key = _key(target, compiler, archives, builder)
    started = time.monotonic()

    log = cache / "logs" / f"python-{target}-{key.name[:8]}.log"

    def build(folder: Path) -> None:
        _say(f"Python for {target}: about two minutes on two cores …", quiet)
        log.parent.mkdir(exist_ok=True)
        log.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as work:
            place = {"work": Path(work), "log": log, "cache": cache}
            _fill(folder, _Build(target=target, compiler=compiler, archives=archives, builder=builder, **place))

    found = entry(cache, key, build)
    how = "from the cache" if found.reused else f"built in {time.monotonic() - started:.0f} s"
    _say(f"Python for {target}: {how}", quiet)
    return PortablePython(
        target=target,
        version=archives["cpython"].version,
        digest=key.digest,
        prefix=found.path / "python",
        licenses=found.path / "licenses",
        reused=found.reused,
    )


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _key(target: str, compiler: ZigCompiler, archives: dict[str, Archive], builder: PortablePython | None) -> Key:
    return Key.of(
        "python",
        format=_FORMAT,
        target=target,
        compiler=compiler.identity,
        archives={
            name: [archive.version, archive.epoch, *archive.archives.values()] for name, archive in archives.items()
        },
        left_out=_LEFT_OUT,
        not_installed=sorted(_NOT_INSTALLED),
        flags=[_CFLAGS, _LDFLAGS, _FFI_CONFIG, _FOR_THE_FREEZER],
        cross=builder is not None,
    )


def _fill(folder: Path, build: _Build) -> None:
    for name in ("tools", "deps", "obj/Modules"):
        (build.work / name).mkdir(parents=True)
    build.compiler.install(build.work / "tools")
    for name, archive in build.archives.items():
        unpack(fetched(archive, build.cache), build.work / ("src" if name == "cpython" else name))
    _build_zlib(build)
    if build.builder is None:
        _build_libffi(build)
    _configure(build)
    _make(build)
    _install(build, folder / "python")
    _write_licenses(build, folder / "licenses")


def _compile(build: _Build, name: str, cwd: Path, sources: Sequence[str], *flags: str) -> None:
    """Make ``deps/lib<name>.a`` of ``sources`` in ``cwd``."""
    fixed = ("-O3", "-fPIC", "-fno-sanitize=all", f"-ffile-prefix-map={build.work}=.")
    objects = []
    for source in sources:
        objects.append(f"{source.replace('/', '-')}.o")
        build.run(f"{name}: compile", "cc", *fixed, *flags, "-c", source, "-o", objects[-1], cwd=cwd)
    build.run(f"{name}: archive", "ar", "rcs", f"../deps/lib{name}.a", *objects, cwd=cwd)


def _build_zlib(build: _Build) -> None:
    _compile(build, "z", build.work / "zlib", _ZLIB, "-fvisibility=hidden")


def _build_libffi(build: _Build) -> None:
    folder = build.work / "libffi"
    target, part, sources = _FFI[build.target]
    version = build.archives["libffi"].version
    answers = {
        "VERSION": version,
        "TARGET": target,
        "HAVE_LONG_DOUBLE": "1",
        "FFI_EXEC_TRAMPOLINE_TABLE": "0",
        "FFI_VERSION_STRING": version,
        "FFI_VERSION_NUMBER": "{}{:02}{:02}".format(*map(int, version.split("."))),
    }
    text = (folder / "include" / "ffi.h.in").read_text(encoding="utf-8")
    (folder / "include" / "ffi.h").write_text(re.sub(r"@(\w+)@", lambda m: answers[m[1]], text), encoding="utf-8")
    (folder / "include" / "fficonfig.h").write_text(_FFI_CONFIG, encoding="utf-8")
    shutil.copyfile(folder / "src" / part / "ffitarget.h", folder / "include" / "ffitarget.h")
    flags = ("-D_GNU_SOURCE", "-DHAVE_CONFIG_H", "-Iinclude", "-Isrc", "-Wno-deprecated-declarations")
    _compile(build, "ffi", folder, (*_FFI_COMMON, *sources), *flags)


def _configure(build: _Build) -> None:
    _adapt_makefile(build.work / "src" / "Makefile.pre.in")
    setup = build.work / "obj" / "Modules" / "Setup.local"
    setup.write_text(_FOR_THE_FREEZER if build.builder is None else "", encoding="utf-8")
    arguments = ["../src/configure", "-q", "--prefix=/python", "--enable-shared", "--without-ensurepip"]
    arguments += ["--disable-test-modules", "--with-computed-gotos", *_machines(build)]
    arguments += [f"py_cv_module_{name}=n/a" for name in _LEFT_OUT]
    arguments += ["CC=cc", "AR=ar", "RANLIB=ranlib", "OPT=-DNDEBUG -O3", f"LDFLAGS={' '.join(_LDFLAGS)}"]
    arguments += [f"CFLAGS={' '.join(_CFLAGS)} -ffile-prefix-map={build.work}=."]
    # PKG_CONFIG: no library of this machine's, which its word would put into the build's variables.
    arguments += ["PKG_CONFIG=", "ZLIB_CFLAGS=-I../zlib", "ZLIB_LIBS=../deps/libz.a"]
    build.run("configure", *arguments, cwd=build.work / "obj")


def _machines(build: _Build) -> list[str]:
    """Names of the machines; for another one, answers to what configure would find out by running something."""
    if build.builder is None:
        return [f"--build={TRIPLES[build.target]}"]
    return [
        f"--build={TRIPLES[build.builder.target]}",
        f"--host={TRIPLES[build.target]}",
        f"--with-build-python={build.builder.program}",
        "ac_cv_file__dev_ptmx=yes",
        "ac_cv_file__dev_ptc=no",
        "ac_cv_buggy_getaddrinfo=no",
    ]


def _adapt_makefile(path: Path) -> None:
    """What zig's linker does not take: ``-h`` for the library's name, and a library of nothing but another one."""
    text = path.read_text(encoding="utf-8")
    text = text.replace("-Wl,-h", "-Wl,-soname,")
    text = re.sub(r"^PY3LIBRARY=.*$", "PY3LIBRARY=", text, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")


def _make(build: _Build) -> None:
    # The Makefile's goal is the name that programs are linked with; it makes the library itself beside that.
    goals = (f"libpython{_short(build)}.so",) if build.builder else ("build_all",)
    # The interpreter finds the library beside it, wherever the cache is.
    found = r"LINKFORSHARED=-Wl,-export-dynamic -Wl,-rpath,'$$ORIGIN/../lib'"
    build.run("make", "make", f"-j{cpu_count()}", found, *goals, cwd=build.work / "obj")


def _short(build: _Build) -> str:
    return build.archives["cpython"].version.rpartition(".")[0]


def _install(build: _Build, prefix: Path) -> None:
    """Not by ``make install``: it compiles everything three times, and what it writes names this build's folders."""
    name, short = f"python{_short(build)}", _short(build)
    obj, source = build.work / "obj", build.work / "src"
    (prefix / "lib").mkdir(parents=True)
    library = prefix / "lib" / f"libpython{short}.so.1.0"
    shutil.copyfile(obj / library.name, library)
    library.chmod(0o755)
    shutil.copytree(source / "Include", prefix / "include" / name)
    shutil.copyfile(obj / "pyconfig.h", prefix / "include" / name / "pyconfig.h")
    _check(library, build)
    if build.builder is None:
        _install_interpreter(build, prefix, name)


def _install_interpreter(build: _Build, prefix: Path, name: str) -> None:
    obj, modules = build.work / "obj", prefix / "lib" / name
    (prefix / "bin").mkdir()
    shutil.copy2(obj / "python", prefix / "bin" / name)
    shutil.copytree(
        build.work / "src" / "Lib", modules, ignore=lambda _, names: [name for name in names if name in _NOT_INSTALLED]
    )
    (modules / "lib-dynload").mkdir()
    for extension in obj.glob("Modules/*.so"):
        shutil.copy2(extension, modules / "lib-dynload" / extension.name)
    data = next(obj.glob("build/lib.*/_sysconfigdata_*.py"))
    text = data.read_text(encoding="utf-8").replace(str(build.work), "/build")
    (modules / data.name).write_text(text, encoding="utf-8")
    # Compiled here, once: nothing may be written into the cache later.
    compile_all = ("-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(modules))
    prefix_map = ("-s", str(prefix), "-p", "/python")
    build.run("compile", str(prefix / "bin" / name), *compile_all, *prefix_map, cwd=build.work)


def _check(library: Path, build: _Build) -> None:
    found = describe(library)
    wrong = []
    if f"{found.system}-{found.machine}" != build.target:
        wrong.append(f"it is for {found.system}-{found.machine}")
    if found.needs > GLIBC:
        wrong.append(f"it needs glibc {found.needs[0]}.{found.needs[1]}")
    if str(build.work).encode() in library.read_bytes():
        wrong.append("it holds the path of its build")
    if wrong:
        raise BuildError(f"libpython for {build.target}: {'; '.join(wrong)}")


def _write_licenses(build: _Build, target: Path) -> None:
    shipped = {
        "cpython": ("CPython", "src", "interpreter and standard library"),
        "zlib": ("zlib", "zlib", "in libpython"),
    }
    for name, (words, folder, note) in shipped.items():
        archive = build.archives[name]
        component = Component(name=words, version=archive.version, license=archive.license, note=note)
        names = [archive.license_file, *_MORE_LICENSES.get(name, ())]
        texts = {Path(text).name: (build.work / folder / text).read_bytes() for text in names}
        write_component(target, component, texts)


def main(argv: Sequence[str] | None = None) -> None:
    """Build the host's, or those asked for, and print where they are."""
    parser = argparse.ArgumentParser(
        prog="python -m shell_tool_release.portable_python", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--target", action="append", choices=list(TRIPLES), help="platform in node's names (default: this one)"
    )
    for target in parser.parse_args(argv).target or [host_platform()]:
        sys.stdout.write(f"{build_python(target).prefix}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
