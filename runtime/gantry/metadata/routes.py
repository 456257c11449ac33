"""Which request gets which answer (MDS-05 to MDS-30). Pure.

Below ``/TOKEN/acMetadata/v1``::

    GET   /pod/annotations                 JSON list
    GET   /pod/annotations/NAME            text
    GET   /pod/manifest                    JSON
    GET   /pod/uuid                        text
    GET   /apps/APP/annotations            JSON list
    GET   /apps/APP/annotations/NAME       text
    GET   /apps/APP/image/manifest         the bytes of the image
    GET   /apps/APP/image/id               text
    POST  /pod/hmac/sign                   form: content
    POST  /pod/hmac/verify                 form: content, uuid, signature

HEAD works like GET. An annotation's NAME may hold slashes, as they are or as %2F.
"""

from __future__ import annotations

import binascii
import json

from gantry.appc import names
from gantry.appc.errors import AppcError
from gantry.appc.uuid import uuid_bytes
from gantry.metadata import forms
from gantry.metadata.http import JSON, TEXT, Head, Response
from gantry.metadata.registry import Pod
from gantry.signer import protocol

PREFIX = b"/acMetadata/v1/"
FORM = b"application/x-www-form-urlencoded"
SIGN = PREFIX + b"pod/hmac/sign"
VERIFY = PREFIX + b"pod/hmac/verify"
_POSTS = frozenset({SIGN, VERIFY})
_FORMS = frozenset({FORM, b""})
_KEPT_ANSWERS = 256  # of one pod
_KEPT_PATH = 256  # bytes; a stranger chooses the paths

POD_NOT_FOUND = Response(401, b"pod not found")
SIGNER_UNAVAILABLE = Response(503, b"the signer does not answer; try again")
SIGNER_REFUSED = Response(500, b"the signer refused")
WRONG_SIGNATURE = Response(403, b"the signature is not valid for this content and pod")
RIGHT_SIGNATURE = Response(200, b"")


class Ask:
    """The signer has to be asked before there is an answer.

    Attributes:
        frame: What to send it.
        verdict: Whether it will say yes or no; else it will send a signature.
    """

    __slots__ = ("frame", "verdict")

    def __init__(self, frame: bytes, verdict: bool) -> None:
        self.frame = frame
        self.verdict = verdict


def split_token(path: bytes) -> tuple[bytes, bytes]:
    """The token in *path* and the rest, which begins with a slash or is empty."""
    end = path.find(b"/", 1)
    return (path[1:], b"") if end < 0 else (path[1:end], path[end:])


def answer(pod: Pod, token: bytes, rest: bytes, head: Head, body: bytes) -> Response | Ask:
    """What a request of *pod* gets.

    Args:
        pod: Whose token was given, already checked.
        token: The token, for the signer.
        rest: The path behind the token.
        head: The request.
        body: Its content, complete.
    """
    if rest in _POSTS:
        if head.method != b"POST":
            return Response(405, b"use POST", allow=b"POST")
        return _post(pod, token, head, body, verdict=rest == VERIFY)
    if not rest.startswith(PREFIX):
        return Response(404, b"not found")
    path = rest[len(PREFIX) :]
    response = pod.answers.get(path)
    if response is None:
        response = _get(pod, path)
        if response.status == 200 and len(path) <= _KEPT_PATH and len(pod.answers) < _KEPT_ANSWERS:
            pod.answers[path] = response
    if response.status == 200 and head.method not in {b"GET", b"HEAD"}:
        return Response(405, b"use GET", allow=b"GET, HEAD")
    return response


def _get(pod: Pod, path: bytes) -> Response:
    document = pod.document
    area, _, rest = path.partition(b"/")
    if area == b"pod":
        if rest == b"uuid":
            return Response(200, document.uuid.encode())
        if rest == b"manifest":
            return Response(200, document.manifest, JSON)
        return _annotations(document.annotations, rest)
    if area != b"apps":
        return Response(404, b"not found")
    raw_name, _, rest = rest.partition(b"/")
    try:
        name = names.ac_name(_text(raw_name))
    except (ValueError, AppcError):
        return Response(400, b"malformed app name")
    app = document.apps.get(name)
    if app is None:
        return Response(404, b"app not found")
    if rest == b"image/id":
        return Response(200, app.image_id.encode())
    if rest == b"image/manifest":
        return Response(200, app.image_manifest, JSON)
    return _annotations(app.annotations, rest)


def _annotations(annotations: list[tuple[str, str]], rest: bytes) -> Response:
    if rest == b"annotations":
        pairs = [{"name": name, "value": value} for name, value in annotations]
        return Response(200, json.dumps(pairs, ensure_ascii=False, separators=(",", ":")).encode(), JSON)
    if not rest.startswith(b"annotations/"):
        return Response(404, b"not found")
    try:
        wanted = names.ac_identifier(_text(rest.removeprefix(b"annotations/")))
    except (ValueError, AppcError):
        return Response(400, b"malformed annotation name")
    for name, value in annotations:
        if name == wanted:
            # The type of all texts here; a value that is no ASCII says so instead of lying.
            return Response(200, value.encode(), TEXT if value.isascii() else b"text/plain; charset=utf-8")
    return Response(404, b"annotation not found")


def _text(part: bytes) -> str:
    return forms.unquote_path(part).decode("ascii")


def _post(pod: Pod, token: bytes, head: Head, body: bytes, *, verdict: bool) -> Response | Ask:
    if head.content_type not in _FORMS:
        return Response(415, b"send a form: application/x-www-form-urlencoded")
    try:
        fields = forms.decode(body) if head.content_type else {}
    except ValueError as error:
        return Response(400, str(error).encode())
    content = fields.get(b"content")
    if not content:
        return Response(400, b"content form value not found")
    if not verdict:
        return Ask(protocol.sign_request(pod.uuid, token, content), verdict=False)
    try:
        uuid = uuid_bytes(fields.get(b"uuid", b"").decode("ascii"))
    except (ValueError, AppcError):
        return Response(400, b"uuid form value is missing or malformed")
    text = fields.get(b"signature", b"")
    try:
        signature = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return Response(400, b"signature form value is not base64")
    if binascii.b2a_base64(signature, newline=False) != text:
        # The bits that the padding leaves over are set: another text for the same bytes. One signature has
        # one text, so that nobody can mistake two texts for two signatures.
        return Response(400, b"signature form value is not base64 in its only form")
    if len(signature) != protocol.SIGNATURE_SIZE:
        return WRONG_SIGNATURE
    return Ask(protocol.verify_request(uuid, signature, content), verdict=True)


def signed(signature: bytes) -> Response:
    """The answer that carries a signature: base64, one line, no line end (MDS-13, MDS-20, MDS-21)."""
    return Response(200, binascii.b2a_base64(signature, newline=False), start=_SIGNED)


_SIGNED = Response(200, bytes(88)).start  # the same for all
