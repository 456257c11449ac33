"""Discovery against pages and values that mean harm (TRAP-32, TRAP-33)."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.https_server import HttpsServer

from gantry.appc.imageref import ImageRef
from gantry.discovery import DiscoveryError, discover_images
from gantry.discovery.page import PageTooComplexError, find_tags
from gantry.discovery.templates import TemplateRefusedError, check_url, render
from gantry.discovery.walk import MAX_PAGE
from gantry.http import Client, HttpOptions

TAG = '<meta name="ac-discovery" content="example.com https://x.com/{name}.{ext}">'
NAME = "example.com/app"


SOUP = [
    *(
        "<",
        ">",
        "<!--",
        "-->",
        "<script>",
        "</script>",
        "<meta ",
        "name=ac-discovery ",
        "content='a b'",
        '"',
        "'",
    ),
    *(
        "/",
        "<noscript>",
        "</noscript>",
        "<svg>",
        "<![CDATA[",
        "]]>",
        "&amp;",
        "<title>",
        "</title>",
        "\0",
        "x",
    ),
]
PARTS = ["{name}", "{version}", "{os}", "{x}", "{ext}", "/", "-", "a", "?", "#", "@", ":", "."]


def url(template: str, name: str = NAME, **labels: str) -> str:
    return render(template, name, labels)[0]


class TestTemplates:
    def test_TRAP_32_values_are_never_templates(self) -> None:
        found = url("https://x.com/{version}/{os}.{ext}", version="{os}{ext}{name}", os="{version}")
        assert found == "https://x.com/{os}{ext}{name}/{version}.aci"

    @pytest.mark.parametrize("bad", ["\n", "\r\nX: y", "\0", "\x1b[2J", "\x7f", "\x85", "\u2028"])
    def test_TRAP_32_control_characters_are_refused(self, bad: str) -> None:
        with pytest.raises(TemplateRefusedError, match="control"):
            url("https://x.com/{version}.{ext}", version=f"1{bad}0")
        with pytest.raises(TemplateRefusedError, match="control"):
            url(f"https://x.com/{bad}.{{ext}}")
        # A value that the template does not use does no harm.
        assert url("https://x.com/{ext}", channel=bad) == "https://x.com/aci"

    @pytest.mark.parametrize(
        "value",
        [
            "evil.com/",
            "@evil.com",
            "evil.com?",
            "evil.com#",
            "x\\",
            ":80",
            "",
            "a b",
            "[::1]",
            "\u3002",
            "%2f",
        ],
    )
    def test_TRAP_32_values_cannot_change_the_host(self, value: str) -> None:
        with pytest.raises(TemplateRefusedError):
            url("https://{channel}.x.com/{name}.{ext}", channel=value)
        with pytest.raises(TemplateRefusedError):
            url("https://x.com{channel}/{name}.{ext}", channel=value + "/")
        with pytest.raises(TemplateRefusedError):
            url("https://{channel}@x.com/{name}.{ext}", channel=value)

    def test_TRAP_32_harmless_values_in_the_host(self) -> None:
        assert (
            url("https://{os}.x.com:8443/{name}.{ext}", os="linux")
            == "https://linux.x.com:8443/example.com/app.aci"
        )
        assert url("https://{name}-{os}.{ext}", os="linux") == "https://example.com/app-linux.aci"
        assert url("https://{name}.{ext}", name="example.com") == "https://example.com.aci"

    @pytest.mark.parametrize(
        "template",
        ["https:///x.{ext}", "https://x.com:/{ext}", "https://x y/{ext}", "https://u:p@x.com/{ext}", "https://-x/{ext}",
         "https://x..com/{ext}", "https://x.com\\@evil.com/{ext}", "https:/x.com/{ext}", "https:x.com/{ext}",
         "https://[::1/{ext}", " https://x.com/{ext}", "{os}://x.com/{ext}", "https://x.com:99999999/{ext}"],
    )  # fmt: skip
    def test_malformed_templates_are_skipped(self, template: str) -> None:
        with pytest.raises(TemplateRefusedError):
            url(template, os="https")

    @given(
        st.dictionaries(st.sampled_from(["version", "os", "arch", "x"]), st.text(max_size=12), max_size=4),
        st.lists(
            st.sampled_from(PARTS),
            max_size=8,
        ),
        st.booleans(),
    )  # fmt: skip
    @settings(max_examples=400)
    def test_whatever_comes_in_the_host_is_the_templates(
        self, labels: dict[str, str], parts: list[str], in_host: bool
    ) -> None:
        template = "https://" + ("" if in_host else "fixed.com/") + "".join(parts) + "/{ext}"
        try:
            aci, asc = render(template, NAME, labels)
        except TemplateRefusedError as exc:
            assert str(exc).isprintable() or any(not each.isprintable() for each in labels)
            return
        for made in (aci, asc):
            assert made.startswith("https://")
            assert not any(ord(c) < 32 for c in made)
            host = urlsplit(made.replace("[", "").replace("]", "")).netloc
            if not in_host:
                assert host == "fixed.com"
            assert "@" not in host

    @given(st.text(max_size=40))
    def test_any_key_url_is_checked_or_refused(self, text: str) -> None:
        for given_url in (text, f"https://{text}", f"https://k.com/{text}"):
            try:
                assert (
                    check_url(given_url).startswith(("https://", "HTTPS://", "hTTPS://"))
                    or given_url[:5].lower() == "https"
                )
            except TemplateRefusedError:
                continue


class TestPages:
    @given(st.binary(max_size=400), st.binary(max_size=40), st.text(max_size=30))
    @settings(max_examples=300)
    def test_any_bytes_are_a_page(self, before: bytes, after: bytes, content_type: str) -> None:
        for tag in find_tags(before + TAG.encode() + after, content_type):
            assert tag.prefix
            assert tag.value

    @given(st.lists(st.sampled_from(SOUP), max_size=40))
    def test_any_soup_is_a_page(self, soup: list[str]) -> None:
        find_tags("".join(soup).encode())

    @pytest.mark.parametrize(
        "piece",
        ["<", "<a ", "<!---->", "<!--", "<script>", "<script><!--<script>", "<div>", "<b>", "<svg>", "<!x",
         "<?", "</a ",
         "<a b='", "<noscript>", "</noscript ", "<title>", "<svg></p>", "<math><mi>", "&amp", "<![CDATA[",
         "<meta a ",
         "<textarea></textarea>", "<noscript></noscript>", "<!----!>", "</",
         "<meta name=ac-discovery content='a b'>"],
    )  # fmt: skip
    def test_TRAP_33_a_page_cannot_eat_the_processor(self, piece: str) -> None:
        page = (piece * (MAX_PAGE // len(piece)))[:MAX_PAGE].encode()
        start = time.process_time()
        try:
            find_tags(page)
        except PageTooComplexError:
            assert piece.startswith("<!")
        # Each takes a second at most where it was written; quadratic parsers take minutes.
        assert time.process_time() - start < 10

    def test_TRAP_33_only_a_bounded_prefix_is_read(self) -> None:
        early = TAG + "x" * (3 * MAX_PAGE)
        late = "x" * (2 * MAX_PAGE) + TAG
        with HttpsServer({"/app": early, "/late": late}) as server:
            options = HttpOptions(ca_file=server.ca_file, connect_to=server.connect_to("example.com"))
            with Client(options) as client:
                assert discover_images(client, ImageRef(NAME), {})
                with pytest.raises(DiscoveryError):
                    discover_images(client, ImageRef("example.com/late"), {})

    def test_TRAP_33_the_number_of_levels_is_bounded(self) -> None:
        with HttpsServer() as server:
            options = HttpOptions(ca_file=server.ca_file, connect_to=server.connect_to("example.com"))
            with Client(options) as client, pytest.raises(DiscoveryError, match="32"):
                discover_images(client, ImageRef("example.com" + "/a" * 100), {})
            assert server.requests == []

    def test_a_page_cannot_break_the_error_message(self) -> None:
        bad = '<meta name="ac-discovery" content="example.com https://x.com/{a\x1b[2Jb\n}{ext}">'
        with HttpsServer({"/app": bad}) as server:
            options = HttpOptions(ca_file=server.ca_file, connect_to=server.connect_to("example.com"))
            with Client(options) as client, pytest.raises(DiscoveryError) as error:
                discover_images(client, ImageRef(NAME), {})
        assert str(error.value).isprintable()
