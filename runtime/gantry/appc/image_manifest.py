"""The image manifest (MAN-01 ... MAN-42, DEP-01 ... DEP-04)."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gantry.appc import document, version
from gantry.appc.app import App, read_app
from gantry.appc.document import JsonObject, Note
from gantry.appc.imageid import ImageID
from gantry.appc.imageref import ImageRef
from gantry.appc.names import ac_identifier
from gantry.appc.parts import read_annotations, read_labels
from gantry.appc.reading import Obj, Reading

if TYPE_CHECKING:
    from gantry.appc.version import AcVersion

KIND = "ImageManifest"
NOTIFY = "appc.io/executor/supports-systemd-notify"
_MAX_SIZE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Dependency:
    """An image that is laid down below another (DEP-01 ... DEP-06).

    Attributes:
        image_name: Its name.
        image_id: Its ID, if it is pinned; may be rkt's half form.
        labels: Labels it must have.
        size: Bytes to expect, or ``None``; 0 counts as absent.
        data: The JSON object.
    """

    image_name: str
    image_id: ImageID | None
    labels: dict[str, str]
    size: int | None
    data: JsonObject = field(compare=False, repr=False)

    @property
    def ref(self) -> ImageRef:
        """What to look for."""
        return ImageRef(self.image_name, self.labels)


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """An image manifest: typed fields over the JSON it came from. Do not change :attr:`data`.

    Attributes:
        raw: The bytes it was read from, unchanged.
        data: The JSON object, unknown keys and order kept, keys in the specification's spelling.
        notes: What was odd but acceptable.
        ac_version: The specification's version.
        name: The image's name.
        labels: Labels in their order.
        app: How to execute it, or ``None`` for a library image.
        dependencies: What lies below it, in order.
        path_whitelist: Cleaned absolute paths; empty means everything.
        annotations: Annotations in their order.
    """

    raw: bytes = field(repr=False)
    data: JsonObject = field(compare=False, repr=False)
    notes: tuple[Note, ...] = field(compare=False, repr=False)
    ac_version: AcVersion
    name: str
    labels: dict[str, str]
    app: App | None
    dependencies: tuple[Dependency, ...]
    path_whitelist: tuple[str, ...]
    annotations: dict[str, str]

    @classmethod
    def parse(cls, raw: bytes, *, strict: bool = False, max_bytes: int = document.MAX_BYTES) -> ImageManifest:
        """Read an image manifest.

        Args:
            raw: The bytes of the archive's ``manifest`` file.
            strict: Hold it to what a *writer* must observe; for images that we build.
            max_bytes: The bound on its size (TRAP-33).

        Raises:
            ManifestError: It is no image manifest, or malformed; carries path or line and column, and rule.
        """
        data, notes = document.load(raw, max_bytes=max_bytes)
        root = Obj(data, "$", Reading(strict=strict, notes=notes))
        check_kind(root, KIND, "MAN-02")
        found = root.checked("acVersion", "MAN-03", lambda text: version.parse(text, strict=strict))
        try:
            version.check_readable(found)
        except version.VersionError as exc:
            root.fail(exc.message, key="acVersion", rule=exc.rule, hint=exc.hint)
        if found.newer_than_ours:
            root.reading.note("$.acVersion", f"acVersion {found.text} is newer than Gantry's", "TYP-14")
        name = root.checked(
            "name", "MAN-04", lambda text: ac_identifier(text, what="image name", strict=strict)
        )
        app = root.child("app", "MAN-17")
        manifest = cls(
            raw=raw,
            data=data,
            notes=(),
            ac_version=found,
            name=name,
            labels=read_labels(root),
            app=None if app is None else read_app(app),
            dependencies=tuple(_read_dependency(each) for each in root.objects("dependencies", "MAN-35")),
            path_whitelist=_whitelist(root),
            annotations=read_annotations(root),
        )
        notify = manifest.annotations.get(NOTIFY)
        if notify not in (None, "true", "false"):
            root.reading.tolerate("$.annotations", f'{NOTIFY} is neither "true" nor "false"', "MAN-39")
        object.__setattr__(manifest, "notes", tuple(root.reading.notes))
        return manifest

    @classmethod
    def from_object(cls, data: JsonObject, *, strict: bool = True) -> ImageManifest:
        """Check a manifest that a program made; *data* itself is not changed.

        Raises:
            ManifestError: It is malformed.
        """
        return cls.parse(document.dump(data), strict=strict)

    def dump(self) -> bytes:
        """The manifest as compact JSON; everything that was read is in it, repeated keys excepted."""
        return document.dump(self.data)

    def label(self, name: str) -> str | None:
        """The value of the label *name*, or ``None``."""
        return self.labels.get(name)

    @property
    def ref(self) -> ImageRef:
        """Name and labels as a reference."""
        return ImageRef(self.name, self.labels)

    @property
    def supports_notify(self) -> bool:
        """Whether the app says that it signals readiness (MAN-39)."""
        return self.annotations.get(NOTIFY) == "true"

    def mismatch(self, ref: ImageRef) -> str | None:
        """Why this image is not what *ref* asked for, in one line, or ``None`` if it is (DSC-26 ... DSC-28).

        Only labels that *ref* states are compared: a label that only the manifest has is no mismatch.
        """
        if self.name != ref.name:
            return f'the image\'s name is "{self.name}", not "{ref.name}"'
        for label, wanted in ref.labels.items():
            actual = self.labels.get(label)
            if actual is None:
                return f'the image has no label "{label}" (asked for: "{wanted}")'
            if actual != wanted:
                return f'the image\'s label "{label}" is "{actual}", not "{wanted}"'
        return None


def check_kind(root: Obj, kind: str, rule: str) -> None:
    """Refuse a document of another ``acKind`` (TYP-09).

    Raises:
        ManifestError: It is missing or another one.
    """
    found = root.string("acKind", rule)
    if found != kind:
        root.fail(f'acKind is "{found}", not "{kind}"', key="acKind", rule=f"{rule},TYP-09")


def read_image_id(node: Obj, key: str, rule: str) -> ImageID | None:
    """An image ID member, or ``None``; rkt's half form is taken (SIG-04)."""
    strict = node.reading.strict
    return node.optional_checked(key, rule, lambda text: ImageID.parse(text, allow_half=not strict))


def _read_dependency(node: Obj) -> Dependency:
    strict = node.reading.strict
    return Dependency(
        image_name=node.checked(
            "imageName", "DEP-01", lambda text: ac_identifier(text, what="image name", strict=strict)
        ),
        image_id=read_image_id(node, "imageID", "DEP-02"),
        labels=read_labels(node),
        size=node.integer("size", "DEP-04", low=0, high=_MAX_SIZE) or None,
        data=node.data,
    )


def _whitelist(root: Obj) -> tuple[str, ...]:
    paths: list[str] = []
    for index, path in enumerate(root.strings("pathWhitelist", "MAN-36")):
        if not path.startswith("/"):
            root.reading.tolerate(f"$.pathWhitelist[{index}]", f'the path "{path}" is not absolute', "MAN-36")
        paths.append(posixpath.normpath("/" + path.lstrip("/")))
    return tuple(paths)
