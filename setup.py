"""Builds libmxnet_trt.so from cpp/ and puts mxnet_trt_property.pth at the root of site-packages.

All else is in pyproject.toml. The library is plain shared C++: MXNet and ctypes open it with dlopen, Python's own
headers are not used, and so one wheel (py3-none-<platform>) serves every Python version.

Variables:
    MXNET_INCLUDE_DIR: Folder that holds mxnet/lib_api.h, where the search does not find it.
    CXX, CXXFLAGS, LDFLAGS: Compiler, and flags that are added to those below.
    MXNET_TRT_WERROR: 1 turns compiler warnings into errors, as CI does.
"""

import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.editable_wheel import editable_wheel

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools < 70.1
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
HEADER = Path("mxnet", "lib_api.h")
# MX_LIBRARY_VERSION in the header of MXNet 1.9.1: the version of the boundary that cpp/ implements.
LIBRARY_VERSION = "11"
PTH = "mxnet_trt_property.pth"
SHARED_LIBRARY = "libmxnet_trt.so"
# The C entry points that MXNet looks up, and those of cpp/bridge.h.
EXPORTS = ("_msg*", "_op*", "_part*", "_pass*", "initialize", "mxtrt_*")

COMPILE_FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections"]
COMPILE_FLAGS += ["-Wall", "-Wextra", "-pthread"]
LINK_FLAGS = [
    "-shared",
    "-pthread",
    # A compiler newer than the system's libstdc++ (conda, /opt) would tie the wheel to its own one. Nothing of C++
    # crosses the boundary, so a private copy is safe. EXPORTS keeps it private: the standard library's templates are
    # visible whatever -fvisibility says, and could otherwise be taken from, or by, another library of the process.
    "-static-libstdc++",
    "-static-libgcc",
    "-Wl,--gc-sections",
    "-Wl,--no-undefined",
    "-Wl,--as-needed",
    "-Wl,-z,relro,-z,now",
]


class BuildError(SystemExit):
    """Ends the build with a message and no stack trace."""

    def __init__(self, text):
        super().__init__(f"\nerror: {text}\n")


def include_candidates():
    """Yields each folder in which mxnet/lib_api.h may lie, with the reason it is looked at. Imports no mxnet."""
    for variable in ("MXNET_INCLUDE_DIR", "MXNET_INCLUDE_PATH"):  # The second one is MXNet's own name.
        if os.environ.get(variable):
            given = Path(os.environ[variable]).expanduser()
            yield given, variable
            yield given.parent, variable  # The folder 'mxnet' itself was given.
    # Under pip's build isolation sys.path lacks the environment's packages, and sysconfig still names them.
    paths = [(sysconfig.get_paths()[key], "this Python's packages") for key in ("platlib", "purelib")]
    paths += [(path, "this Python's packages") for path in getattr(site, "getsitepackages", list)()]
    paths.append((site.getusersitepackages(), "the user's packages"))
    paths += [(path, "sys.path") for path in sys.path if path]
    # `python -m build` builds inside a virtual environment of its own.
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if os.environ.get(variable):
            library = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
            paths.append((os.path.join(os.environ[variable], library), variable))
    for path, reason in dict(paths).items():
        yield Path(path, "mxnet", "include"), reason


def find_include():
    """Returns the include folder of the installed mxnet wheel."""
    looked = []
    for folder, reason in include_candidates():
        header = folder / HEADER
        if not header.is_file():
            looked.append(f"  {header}  ({reason})")
            continue
        version = re.search(r"#define\s+MX_LIBRARY_VERSION\s+(\d+)", header.read_text(encoding="utf-8"))
        found = version.group(1) if version else "none"
        if found != LIBRARY_VERSION:
            raise BuildError(
                f"{header} is of another MXNet | found: MX_LIBRARY_VERSION {found} | required: {LIBRARY_VERSION}, "
                "that of MXNet 1.9.1 | next step: install mxnet (or mxnet-cuXX) 1.9.1"
            )
        return folder
    install = "pip install mxnet==1.9.1"
    if sys.version_info >= (3, 13):  # mxnet wants numpy<2, which has no wheels there.
        install = "pip install --no-deps mxnet==1.9.1 && pip install numpy requests 'graphviz<0.9'"
    raise BuildError(
        f"the header {HEADER} of MXNet 1.9.1 was not found. Looked for:\n"
        # The rest of sys.path is Python's own and pip's: searched, and not worth a line each.
        + "\n".join(dict.fromkeys(line for line in looked if "(sys.path)" not in line))
        + "\n  and below each folder of sys.path"
        + f"\nnext step: {install}\n"
        "(mxnet-cu102 to mxnet-cu117 1.9.1 do as well), in the environment that this package goes into;\n"
        "or MXNET_INCLUDE_DIR=<folder that holds mxnet/lib_api.h>, for instance the folder mxnet/include of an "
        "unpacked wheel"
    )


class BuildLibrary(build_ext):
    """Compiles cpp/*.cc with the C++ compiler itself: the flags of Python's own build have no part in it."""

    def get_ext_filename(self, fullname):
        """Returns the file name without the suffix of a Python version."""
        return os.path.join(*fullname.split(".")[:-1], SHARED_LIBRARY)

    def get_export_symbols(self, ext):
        """Returns no symbols: there is no module initialisation."""
        return []

    def build_extension(self, ext):
        """Compiles what is older than its source or any header, then links."""
        if not sys.platform.startswith("linux"):
            raise BuildError(f"the native library builds on Linux only | found: {sys.platform}")
        compiler = self._compiler()
        include = find_include()
        target = Path(self.get_ext_fullpath(ext.name))
        objects = Path(self.build_temp, "cpp")
        objects.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)

        # -isystem: warnings inside MXNet's header are not ours to mend.
        command = [*compiler, *COMPILE_FLAGS, "-isystem", str(include)]
        command += ["-Werror"] if os.environ.get("MXNET_TRT_WERROR") == "1" else []
        command += shlex.split(os.environ.get("CXXFLAGS", ""))
        stamp = objects / "command.txt"
        changed = not stamp.is_file() or stamp.read_text(encoding="utf-8") != shlex.join(command)
        newest_header = max((Path(path).stat().st_mtime for path in ext.depends), default=0.0)

        def compile_one(source):
            output = objects / (Path(source).stem + ".o")
            needed = max(newest_header, Path(source).stat().st_mtime)
            if self.force or changed or not output.is_file() or output.stat().st_mtime < needed:
                self._call([*command, "-c", source, "-o", str(output)])
            return str(output)

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            outputs = list(pool.map(compile_one, ext.sources))
        stamp.write_text(shlex.join(command), encoding="utf-8")
        # Under another name first: a process that has the old library open keeps a whole one.
        partial = target.with_name(target.name + ".partial")
        version_script = objects / "exports.map"
        version_script.write_text(f"{{ global: {'; '.join(EXPORTS)}; local: *; }};\n", encoding="utf-8")
        flags = [*LINK_FLAGS, f"-Wl,--version-script={version_script}"]
        link = [*compiler, *outputs, *flags, *shlex.split(os.environ.get("LDFLAGS", "")), "-ldl"]
        self._call([*link, "-o", str(partial)])
        os.replace(partial, target)

    def _compiler(self):
        if os.environ.get("CXX"):
            return shlex.split(os.environ["CXX"])
        for name in ("g++", "c++", "clang++"):
            if shutil.which(name):
                return [name]
        raise BuildError(
            "no C++ compiler was found | found: none of g++, c++, clang++ on PATH | required: one that knows C++17 | "
            "next step: apt-get install g++ (or your system's equivalent), or CXX=<compiler>"
        )

    def _call(self, command):
        print(shlex.join(command), flush=True)
        result = subprocess.run(command, check=False)
        if result.returncode != 0:
            raise BuildError(f"this command ended with status {result.returncode}: {shlex.join(command)}")


class BuildPth(Command):
    """Puts the .pth beside the package, in wheels of both kinds."""

    description = f"put {PTH} at the root of site-packages"
    user_options = []
    editable_mode = False

    def initialize_options(self):
        """Sets what `build` fills in."""
        self.build_lib = None

    def finalize_options(self):
        """Takes the folder that is packed into the wheel's root."""
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self):
        """Copies the file. An editable wheel packs nothing of build_lib, but all of its own install_lib."""
        folder = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        self.mkpath(folder)
        self.copy_file(str(ROOT / PTH), os.path.join(folder, PTH))

    def get_source_files(self):
        """Names the source, so that the sdist holds it."""
        return [PTH]

    def get_outputs(self):
        """Names the result."""
        return [] if self.editable_mode else [os.path.join(self.build_lib, PTH)]

    def get_output_mapping(self):
        """Maps nothing: the file is not one of the project's modules."""
        return {}


class Build(build):
    """The build with the .pth in it."""

    sub_commands = [*build.sub_commands, ("build_pth", None)]


class EditableWheel(editable_wheel):
    """An editable wheel that is refused when the .pth is not in it: such an install would do nothing, silently."""

    def run(self):
        """Builds the wheel and looks into it."""
        from zipfile import ZipFile

        super().run()
        wheels = sorted(Path(self.dist_dir).glob("mxnet_trt_property-*.whl"), key=lambda path: path.stat().st_mtime)
        if not wheels or PTH not in ZipFile(wheels[-1]).namelist():
            raise BuildError(
                f"{PTH} did not get into the editable wheel | next step: install without -e, or with another "
                "version of setuptools"
            )


class BdistWheel(bdist_wheel):
    """A wheel for one platform and every Python 3."""

    def finalize_options(self):
        """Marks the wheel as one of a platform."""
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        """Returns the platform's tag without a Python version and an ABI in it."""
        return "py3", "none", super().get_tag()[2]


def relative(pattern):
    """Returns the files below the project that match, as relative names in a fixed order."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


setup(
    ext_modules=[
        Extension("mxnet_trt_property.libmxnet_trt", sources=relative("cpp/*.cc"), depends=relative("cpp/*.h"))
    ],
    cmdclass={
        "bdist_wheel": BdistWheel,
        "build": Build,
        "build_ext": BuildLibrary,
        "build_pth": BuildPth,
        "editable_wheel": EditableWheel,
    },
    zip_safe=False,
)
