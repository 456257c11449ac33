"""Section 6: discovery (DSC-01 ... DSC-34), against a real HTTPS server."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.https_server import HttpsServer, Reply

from gantry.appc.arch import PlatformError
from gantry.appc.errors import ImageRefError
from gantry.appc.imageref import ImageRef
from gantry.discovery import DiscoveryError, Endpoint, discover, discover_images, discover_pubkeys
from gantry.http import Client, HttpOptions

HOST = {"os": "linux", "arch": "amd64"}
TEMPLATE = "https://storage.example.com/{os}/{arch}/{name}-{version}.{ext}"


def meta(prefix: str, value: str, kind: str = "ac-discovery") -> str:
    return f'<meta name="{kind}" content="{prefix} {value}">'


def keys(prefix: str, url: str) -> str:
    return meta(prefix, url, "ac-discovery-pubkeys")


@pytest.fixture
def server() -> Iterator[HttpsServer]:
    with HttpsServer(hosts=("example.com", "*.example.com", "a.com", "example.co")) as running:
        yield running


@pytest.fixture
def client(server: HttpsServer) -> Iterator[Client]:
    with Client(options(server)) as made:
        yield made


def options(server: HttpsServer, **more: object) -> HttpOptions:
    hosts = server.connect_to("example.com", "other.example.com", "a.com")
    return HttpOptions(ca_file=server.ca_file, connect_to=hosts, use_proxies=False, **more)  # type: ignore[arg-type]


def images(client: Client, text: str, **more: object) -> list[str]:
    return [each.aci_url for each in discover_images(client, ImageRef.parse(text), HOST, **more)]  # type: ignore[arg-type]


def page(
    client: Client, server: HttpsServer, body: str | bytes, text: str = "example.com/app:1.0"
) -> list[str]:
    server.routes = {"/app": body}
    return images(client, text)


def failure(client: Client, text: str = "example.com/app:1.0") -> DiscoveryError:
    with pytest.raises(DiscoveryError) as error:
        images(client, text)
    assert "\n" not in str(error.value)
    return error.value


class TestPage:
    def test_DSC_01_DSC_02_url(self, server: HttpsServer, client: Client) -> None:
        server.routes = {"/": meta("example.com", "https://example.com/{name}.{ext}")}
        images(client, "example.com/a/b")
        images(client, "example.com")
        assert [(r.method, r.host, r.path) for r in server.requests] == [
            ("GET", "example.com", "/a/b?ac-discovery=1"),
            ("GET", "example.com", "/a?ac-discovery=1"),
            ("GET", "example.com", "/?ac-discovery=1"),
            ("GET", "example.com", "/?ac-discovery=1"),
        ]

    def test_DSC_02_port_is_an_option(self, server: HttpsServer) -> None:
        server.routes = {"/app": meta("example.com", "https://example.com/{name}.{ext}")}
        hosts = {f"example.com:{server.port}": ("127.0.0.1", server.port)}
        with Client(HttpOptions(ca_file=server.ca_file, connect_to=hosts)) as client:
            assert images(client, "example.com/app", port=server.port) == [
                "https://example.com/example.com/app.aci"
            ]

    def test_DSC_03_DSC_14_worked_example(self, server: HttpsServer, client: Client) -> None:
        server.routes = {
            "/reduce-worker": meta("example.com", TEMPLATE)
            + keys("example.com", "https://example.com/pubkeys.gpg")
        }
        base = "https://storage.example.com/linux/amd64/example.com/reduce-worker-1.0.0"
        level = "https://example.com/reduce-worker?ac-discovery=1"
        found = discover_images(client, ImageRef.parse("example.com/reduce-worker:1.0.0"), HOST)
        assert found == [Endpoint(f"{base}.aci", f"{base}.aci.asc", level, "example.com")]
        assert discover_pubkeys(client, "example.com/reduce-worker") == ["https://example.com/pubkeys.gpg"]

    @pytest.mark.parametrize(
        "content",
        ["  example.com   https://x.com/{name}.{ext}  ", "example.com https://x.com/{name}.{ext}",
         "\n\texample.com \t https://x.com/{name}.{ext}\n"],
    )  # fmt: skip
    def test_DSC_04_content_is_trimmed_and_split_at_the_first_space(
        self, server: HttpsServer, client: Client, content: str
    ) -> None:
        assert page(client, server, f'<meta name="ac-discovery" content="{content}">') == [
            "https://x.com/example.com/app.aci"
        ]

    @pytest.mark.parametrize(
        "tag",
        ['<meta name="ac-discovery" content="example.com">', '<meta name="ac-discovery" content="">',
         '<meta name="ac-discovery">', '<meta content="example.com https://x.com/{name}.{ext}">',
         '<meta name="ac-discovery-x" content="example.com https://x.com/{name}.{ext}">',
         '<meta name="ac-discovery" content="example.com\nhttps://x.com/{name}.{ext}">',
         '<meta property="ac-discovery" content="example.com https://x.com/{name}.{ext}">'],
    )  # fmt: skip
    def test_DSC_04_other_tags_are_ignored(self, server: HttpsServer, client: Client, tag: str) -> None:
        server.routes = {"/app": tag}
        assert 'no "ac-discovery" tag' in failure(client).attempts[0].outcome

    @pytest.mark.parametrize(
        "body",
        ['<!doctype html><title>x</title><style>a{}</style>TAG<p>text',
         '<html><body><div><p>TAG</div>', 'TAG', 'text before TAG and after <b', '<head>TAG</head></html>',
         '<noscript>TAG</noscript>', '<!-- a > b -->TAG<!-- open', '<svg><desc>TAG</desc></svg>',
         'TAG<script>', 'TAG<a href="', '<table><tr><td>TAG', '<!-->TAG', '<script>a</script>TAG',
         '\xa0\x00TAG'],
    )  # fmt: skip
    @pytest.mark.parametrize(
        "tag",
        ['<meta name="ac-discovery" content="example.com https://x.com/{name}.{ext}">',
         "<META CONTENT='example.com https://x.com/{name}.{ext}' NAME='ac-discovery'/>",
         '<meta charset=x name=ac-discovery content="example.com https://x.com/{name}.{ext}" />',
         '<meta\nname\n=\n"ac-discovery"\ncontent="example&#46;com https:&#x2f;&sol;x.com/{name}.{ext}">',
         '<Meta name=AC-Discovery content="example.com https://x.com/{name}.{ext}" name=other>'],
    )  # fmt: skip
    def test_DSC_05_case_17_tags_are_found_by_the_rules_of_html(
        self, server: HttpsServer, client: Client, body: str, tag: str
    ) -> None:
        assert page(client, server, body.replace("TAG", tag)) == ["https://x.com/example.com/app.aci"]

    @pytest.mark.parametrize(
        "body",
        ["<!-- TAG -->", "<script>TAG</script>", "<script>/*TAG", "<style>TAG</style>", "<title>TAG</title>",
         "<textarea>TAG</textarea>", "<xmp>TAG</xmp>", "<iframe>TAG</iframe>", "<plaintext>TAG", "<!-- TAG",
         "<p title='TAG'>", "<script><!-- </scrip> TAG </script>", "<svg><![CDATA[TAG]]></svg>",
         "&lt;meta name=ac-discovery&gt;"],
    )  # fmt: skip
    def test_DSC_05_comments_scripts_and_text_do_not_count(
        self, server: HttpsServer, client: Client, body: str
    ) -> None:
        tag = '<meta name="ac-discovery" content="example.com https://x.com/{name}.{ext}">'
        server.routes = {"/app": body.replace("TAG", tag)}
        failure(client)

    def test_DSC_05_ampersand_in_a_template(self, server: HttpsServer, client: Client) -> None:
        found = page(client, server, meta("example.com", "https://x.com/?a=1&amp;n={name}&amp;e={ext}"))
        assert found == ["https://x.com/?a=1&n=example.com/app&e=aci"]

    def test_TRAP_15_encodings_and_content_types(self, server: HttpsServer, client: Client) -> None:
        tag = meta("example.com", "https://x.com/{name}.{ext}")
        for body, kind in (
            (tag.encode(), "application/octet-stream"),
            (tag.encode("utf-16"), "text/plain"),
            (tag.encode(), "text/html; charset=no-such-thing"),
            (b"\xff\xfe\xfd" + b"<p>" + tag.encode(), ""),
            (b"\xef\xbb\xbf" + tag.encode(), 'text/html; charset="utf-8"'),
        ):
            server.routes = {"/app": Reply(body=body, headers={"Content-Type": kind})}
            if body[:2] == b"\xff\xfe" and b"\0" not in body:
                failure(client)  # says it is UTF-16 and is not
            else:
                assert images(client, "example.com/app") == ["https://x.com/example.com/app.aci"]


class TestPrefixes:
    def test_DSC_06_TRAP_03_plain_string_prefix(self, server: HttpsServer, client: Client) -> None:
        for prefix, fits in (
            ("example.com/app", True),
            ("example.com/ap", True),
            ("example.co", True),
            ("example.com/app/", False),
            ("example.com/apple", False),
            ("other.com", False),
        ):
            server.routes = {
                "/app": meta(prefix, "https://x.com/{name}.{ext}") + keys(prefix, "https://x.com/k.asc")
            }
            if fits:
                images(client, "example.com/app")
                discover_pubkeys(client, "example.com/app")
            else:
                assert "prefix fits" in failure(client).attempts[0].outcome
                with pytest.raises(DiscoveryError, match="public keys"):
                    discover_pubkeys(client, "example.com/app")


class TestTemplates:
    def test_DSC_07_every_occurrence(self, server: HttpsServer, client: Client) -> None:
        found = page(client, server, meta("example.com", "https://x.com/{name}/{name}.{ext}.{ext}"))
        assert found == ["https://x.com/example.com/app/example.com/app.aci.aci"]

    def test_DSC_08_template_without_ext_is_skipped(self, server: HttpsServer, client: Client) -> None:
        good = meta("example.com", "https://x.com/{name}.{ext}")
        bad = meta("example.com", "https://x.com/{name}.aci")
        assert page(client, server, bad + good) == ["https://x.com/example.com/app.aci"]
        server.routes = {"/app": bad}
        assert "{ext}" in failure(client).attempts[0].outcome

    def test_DSC_09_any_label_but_name(self, server: HttpsServer, client: Client) -> None:
        found = page(
            client,
            server,
            meta("example.com", "https://x.com/{channel}/{name}.{ext}"),
            "example.com/app,channel=beta/x y",
        )
        assert found == ["https://x.com/beta/x y/example.com/app.aci"]

    @pytest.mark.parametrize("bad", ["{nope}", "{}", "{ext}{{name}}", "{{ext}}"])
    def test_DSC_10_unresolved_is_skipped_and_others_count(
        self, server: HttpsServer, client: Client, bad: str
    ) -> None:
        good = meta("example.com", "https://y.com/{name}.{ext}")
        first = meta("example.com", f"https://x.com/{bad}/{{name}}.{{ext}}")
        assert page(client, server, first + good) == ["https://y.com/example.com/app.aci"]

    @pytest.mark.parametrize("text", ["example.com/app", "example.com/app:"])
    def test_DSC_11_TRAP_02_latest_is_for_the_template_only(
        self, server: HttpsServer, client: Client, text: str
    ) -> None:
        server.routes = {"/app": meta("example.com", TEMPLATE)}
        ref = ImageRef.parse(text)
        before = ref.labels
        found = discover_images(client, ref, HOST)
        assert found[0].aci_url == "https://storage.example.com/linux/amd64/example.com/app-latest.aci"
        assert ref.labels == before

    def test_DSC_12_TRAP_01_host_labels_fill_in(self, server: HttpsServer, client: Client) -> None:
        server.routes = {"/app": meta("example.com", TEMPLATE)}
        ref = ImageRef.parse("example.com/app:1,arch=aarch64,os=linux")
        assert "linux/aarch64" in discover_images(client, ref, HOST)[0].aci_url
        assert "linux/amd64" in images(client, "example.com/app:1")[0]

    def test_DSC_12_without_host_labels_such_templates_are_skipped(
        self, server: HttpsServer, client: Client
    ) -> None:
        server.routes = {"/app": meta("example.com", TEMPLATE)}
        with pytest.raises(DiscoveryError, match="label 'os'"):
            discover(client, ImageRef.parse("example.com/app"))

    def test_TRAP_35_foreign_arch_names_are_refused_early(self, server: HttpsServer, client: Client) -> None:
        with pytest.raises(PlatformError, match="aarch64"):
            images(client, "example.com/app,os=linux,arch=arm64")
        assert server.requests == []

    def test_DSC_13_values_are_not_encoded(self, server: HttpsServer, client: Client) -> None:
        found = page(
            client,
            server,
            meta("example.com", "https://x.com/{name}/{version}.{ext}"),
            "example.com/app:!*'();@&+$/?#[]%41",
        )
        assert found == ["https://x.com/example.com/app/!*'();@&+$/?#[]%41.aci"]

    def test_DSC_15_several_tags_keep_their_order(self, server: HttpsServer, client: Client) -> None:
        tags = [meta("example.com", f"https://{host}.com/{{name}}.{{ext}}") for host in ("c", "a", "b", "a")]
        assert [url[8] for url in page(client, server, "".join(tags))] == ["c", "a", "b"]

    @pytest.mark.parametrize(
        "scheme",
        ["hdfs://x/{name}.{ext}", "/{name}.{ext}", "//x/{ext}", "file:///{ext}", "http://x.com/{name}.{ext}",
         "x.com/{ext}", "javascript:{ext}"],
    )  # fmt: skip
    def test_DSC_16_other_schemes_are_passed_over(
        self, server: HttpsServer, client: Client, scheme: str
    ) -> None:
        good = meta("example.com", "https://y.com/{name}.{ext}")
        assert page(client, server, meta("example.com", scheme) + good) == [
            "https://y.com/example.com/app.aci"
        ]


class TestWalk:
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
    def test_DSC_18_parent_path_is_tried(self, server: HttpsServer, client: Client, status: int) -> None:
        server.routes = {
            "a.com/p/s": Reply(status),
            "a.com/p": "no tag here",
            "a.com/": meta("a.com", "https://a.com/{name}.{ext}"),
        }
        assert images(client, "a.com/p/s") == ["https://a.com/a.com/p/s.aci"]
        assert [r.bare_path for r in server.requests] == ["/p/s", "/p", "/"]

    @pytest.mark.parametrize(
        "reply",
        [Reply(500), Reply(204), Reply(206, meta("example.com", "https://wrong.com/{ext}").encode()),
         Reply(203, meta("example.com", "https://wrong.com/{ext}").encode()), Reply(302),
         Reply(302, headers={"Location": "/loop"}),
         Reply(body=b"x" * 100, cut_after=5), meta("example.com", "https://x.com/{nope}.{ext}"),
         meta("other.com", "https://x.com/{name}.{ext}")],
    )  # fmt: skip
    def test_DSC_19_every_failure_moves_up(
        self, server: HttpsServer, client: Client, reply: Reply | str
    ) -> None:
        loop = Reply(302, headers={"Location": "/loop"})
        server.routes = {"/app": reply, "/loop": loop, "/": meta("example.com", "https://x.com/{name}.{ext}")}
        assert images(client, "example.com/app") == ["https://x.com/example.com/app.aci"]

    def test_DSC_20_deepest_level_wins(self, server: HttpsServer, client: Client) -> None:
        server.routes = {
            "/p/s": meta("example.com", "https://deep.com/{name}.{ext}"),
            "/p": meta("example.com", "https://middle.com/{name}.{ext}"),
        }
        assert images(client, "example.com/p/s") == ["https://deep.com/example.com/p/s.aci"]
        assert len(server.requests) == 1

    def test_DSC_21_failure_lists_every_attempt(self, server: HttpsServer, client: Client) -> None:
        server.routes = {"/p": "nothing", "/": meta("other.com", "https://x.com/{ext}")}
        error = failure(client, "example.com/p/s")
        assert [(each.url, each.code) for each in error.attempts] == [
            ("https://example.com/p/s?ac-discovery=1", "http-status"),
            ("https://example.com/p?ac-discovery=1", "no-tag"),
            ("https://example.com?ac-discovery=1", "no-tag"),
        ]
        for part in ("404", 'no "ac-discovery" tag', "prefix fits", "example.com/p/s"):
            assert part in str(error)
        assert error.code == "discovery"

    def test_DSC_22_redirects_are_followed(self, server: HttpsServer, client: Client) -> None:
        server.routes = {
            "example.com/app": Reply(301, headers={"Location": "https://other.example.com/x"}),
            "other.example.com/x": meta("example.com", "https://x.com/{name}.{ext}"),
        }
        assert images(client, "example.com/app") == ["https://x.com/example.com/app.aci"]

    def test_DSC_22_but_not_to_plain_http(self, server: HttpsServer, client: Client) -> None:
        server.routes = {"/app": Reply(301, headers={"Location": "http://example.com/x"})}
        assert failure(client, "example.com/app").attempts[0].code == "redirect"

    def test_DSC_23_tls_is_verified(self, server: HttpsServer) -> None:
        server.routes = {"/app": meta("example.com", "https://x.com/{name}.{ext}")}
        with HttpsServer() as other:
            strict = HttpOptions(ca_file=other.ca_file, connect_to=server.connect_to("example.com"))
            with Client(strict) as client:
                error = failure(client, "example.com/app")
            assert {attempt.code for attempt in error.attempts} == {"tls"}
            assert "ca_file" in error.hint
            loose = HttpOptions(insecure_tls=True, connect_to=server.connect_to("example.com"))
            with Client(loose) as client:
                assert images(client, "example.com/app")

    def test_DSC_23_plain_http_only_after_https_and_only_if_allowed(self, server: HttpsServer) -> None:
        with HttpsServer({"/app": meta("example.com", "http://x.com/{name}.{ext}")}, tls=False) as plain:
            hosts = {
                "example.com:80": ("127.0.0.1", plain.port),
                "example.com:443": ("127.0.0.1", server.port),
            }
            for allowed in (False, True):
                with Client(
                    HttpOptions(ca_file=server.ca_file, connect_to=hosts, allow_http=allowed)
                ) as client:
                    if allowed:
                        assert images(client, "example.com/app") == ["http://x.com/example.com/app.aci"]
                    else:
                        failure(client, "example.com/app")
                        assert plain.requests == []
            assert server.paths().count("/app?ac-discovery=1") == 2
            # A page that is there over https, only without a tag, is not overruled by what plain http says.
            server.routes = {"/app": "nothing", "/": "nothing"}
            with Client(HttpOptions(ca_file=server.ca_file, connect_to=hosts, allow_http=True)) as client:
                failure(client, "example.com/app")
            assert len(plain.requests) == 1

    def test_DSC_24_DSC_25_case_19_keys_are_found_independently(
        self, server: HttpsServer, client: Client
    ) -> None:
        template = meta("example.com", "https://x.com/{name}.{ext}")
        two = keys("example.com", "https://k.com/1{name}") + keys("example.com", "https://k.com/2")
        for routes in ({"/app": template, "/": two}, {"/app": two, "/": template}):
            server.routes = routes
            assert images(client, "example.com/app") == ["https://x.com/example.com/app.aci"]
            assert discover_pubkeys(client, "example.com/app") == ["https://k.com/1{name}", "https://k.com/2"]
            ref = ImageRef("example.com/app")
            assert discover(client, ref, want="pubkeys") == discover_pubkeys(client, "example.com/app")

    @pytest.mark.parametrize(
        "url", ["http://k.com/1", "ftp://k.com/1", "k.com/1", "/1", "https://", "https://u@k.com/"]
    )
    def test_DSC_24_key_urls_of_other_kinds_are_passed_over(
        self, server: HttpsServer, client: Client, url: str
    ) -> None:
        server.routes = {"/app": keys("example.com", url), "/": keys("example.com", "https://k.com/2")}
        assert discover_pubkeys(client, "example.com/app") == ["https://k.com/2"]

    def test_DSC_30_configured_headers_reach_the_page(self, server: HttpsServer) -> None:
        server.routes = {"/app": meta("example.com", "https://x.com/{name}.{ext}")}
        with Client(options(server, headers={"example.com": {"Authorization": "Bearer x"}})) as client:
            images(client, "example.com/app")
        assert server.requests[0].headers["authorization"] == "Bearer x"

    @pytest.mark.parametrize("name", ["a~b/c", "a_b.com/c", "a..b/c", "a" * 300 + "/x"])
    def test_names_without_a_host_are_refused_before_any_request(self, client: Client, name: str) -> None:
        assert "not a host name" in failure(client, name).message


class TestWrittenForm:
    @pytest.mark.parametrize(
        ("text", "name", "labels"),
        [
            ("example.com/app", "example.com/app", {}),
            ("example.com/app:1.0", "example.com/app", {"version": "1.0"}),
            (
                "example.com/app:1.0,os=linux,arch=amd64",
                "example.com/app",
                {"version": "1.0", "os": "linux", "arch": "amd64"},
            ),
            ("a,version=1.0", "a", {"version": "1.0"}),
            ("a:", "a", {"version": ""}),
            ("a,x=", "a", {"x": ""}),
            ("a,x=b=c", "a", {"x": "b=c"}),
            ("a:1=2", "a", {"version": "1=2"}),
            ("a,x=!*'();@&+$/?#[]%41", "a", {"x": "!*'();@&+$/?#[]%41"}),
        ],
    )
    def test_DSC_32_read(self, text: str, name: str, labels: dict[str, str]) -> None:
        ref = ImageRef.parse(text)
        assert (ref.name, ref.labels) == (name, labels)

    @pytest.mark.parametrize(
        "text",
        ["", ":1", ",a=b", "a:1:2", "a,x=1:2", "a,x:1", "a,x", "a,", "a:1,version=2", "a,x=1,x=2", "a,X=1",
         "a,=1", "A", "a b", "a,name=b", "a\n", "a/../b", "a" * 5000],
    )  # fmt: skip
    def test_DSC_32_refused(self, text: str) -> None:
        with pytest.raises(ImageRefError):
            ImageRef.parse(text)

    def test_DSC_34_printed(self) -> None:
        assert str(ImageRef.parse("a:1.0,os=linux")) == "a,version=1.0,os=linux"

    @given(
        st.from_regex(r"[a-z0-9]{1,5}(/[a-z0-9]{1,5})?", fullmatch=True),
        st.dictionaries(
            st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True).filter(lambda label: label != "name"),
            st.text(st.characters(exclude_characters=":,"), max_size=8),
            max_size=4,
        ),
    )
    def test_DSC_34_parsing_what_was_printed_gives_the_same(self, name: str, labels: dict[str, str]) -> None:
        ref = ImageRef(name, labels)
        again = ImageRef.parse(str(ref))
        assert again == ref
        assert list(again.labels) == list(labels)
        assert hash(again) == hash(ref)

    def test_references_are_immutable(self) -> None:
        ref = ImageRef("a", {"b": "c"})
        ref.labels["b"] = "x"
        assert ref.label("b") == "c"
        assert ref.with_labels({"d": "e"}) == ImageRef("a", {"d": "e", "b": "c"})
        with pytest.raises(AttributeError):
            ref.name = "x"
        assert ref != "a,b=c"
        assert copy.deepcopy(ref) == ref
