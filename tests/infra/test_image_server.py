"""The image server: a static site from which App Containers are discovered by name."""

from __future__ import annotations

from tests.infra.nodes import Node, group

testinfra_hosts = group("gantry_image_servers")

GET = "curl -sS --fail --max-time 20 --cacert /etc/ssl/gantry-images.pem"


def test_discovery_is_on_the_page_of_the_name_and_of_its_parent(node: Node) -> None:
    for path in ("/?ac-discovery=1", "/hello?ac-discovery=1"):
        page = node.run(f"curl -sSk --fail --max-time 20 'https://example.com{path}'")
        assert 'name="ac-discovery"' in page
        assert 'name="ac-discovery-pubkeys"' in page


def test_image_signature_and_keys_are_served(node: Node) -> None:
    arch = {"x86_64": "amd64"}.get(machine := node.run("uname -m"), machine)
    image = f"https://example.com/images/example.com/hello-1.0-linux-{arch}.aci"
    head = node.run(f"curl -sSk --fail --max-time 20 {image} | head -c 2 | od -An -tx1")
    assert head.split() == ["1f", "8b"], "not gzip"
    assert "BEGIN PGP SIGNATURE" in node.run(f"curl -sSk --fail --max-time 20 {image}.asc")
    assert "BEGIN PGP PUBLIC KEY BLOCK" in node.run(
        "curl -sSk --fail --max-time 20 https://example.com/pubkeys.asc"
    )


def test_secrets_are_not_served_and_not_readable(node: Node) -> None:
    for path in ("/etc/ssl/private/gantry-images.key", "/etc/gantry/image-signing-key.asc"):
        file = node.host.file(path)
        assert (file.user, file.mode) == ("root", 0o600), path
    assert node.run("grep -rl 'PRIVATE KEY' /srv/gantry || true") == ""


def test_the_web_server_comes_back_after_a_reboot(node: Node) -> None:
    assert node.host.service("nginx").is_enabled
    node.run("nginx -t")
