"""The page of a name: what discovery reads, and an index for people.

Plain HTML with its own style: no scripts and nothing from elsewhere, so that it works from any server, in
light and dark, on a phone and read aloud. Every text in it may come from a stranger.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from gantry.errors import one_line
from gantry.images.push_index import MARK

if TYPE_CHECKING:
    from gantry.images.push_index import Files, Index, Published, Signer

_HEAD = (
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="color-scheme" content="light dark">',
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
)
_COLUMNS = "".join(f'<th scope="col">{each}</th>' for each in ("Version", "Size", "Signed", "Files"))
_STYLE = """
:root{color-scheme:light dark;
--text:#1c2024;--soft:#5b636c;--line:#dde1e6;--back:#fff;--box:#f4f6f8;--link:#0a58b8;
--mark:#1b6e3c;--markback:#e3f4e8;--bad:#9a3412}
@media(prefers-color-scheme:dark){:root{
--text:#e6e9ec;--soft:#a0a8b1;--line:#343a41;--back:#15181b;--box:#1f2428;
--link:#7db5ff;--mark:#8ddba6;--markback:#173823;--bad:#ffb086}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:54rem;background:var(--back);color:var(--text);
font:1rem/1.55 system-ui,sans-serif}
h1{font-size:1.7rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.25rem 0 .6rem}
p{margin:.4rem 0}
a{color:var(--link)}
.soft,th{color:var(--soft)}
code,pre{font-family:ui-monospace,monospace;font-size:.9em}
pre{background:var(--box);border:1px solid var(--line);border-radius:.5rem;padding:.75rem 1rem;margin:.6rem 0;
overflow-x:auto}
table{border-collapse:collapse;width:100%}
th{text-align:left;font-weight:500;font-size:.9rem}
th,td{padding:.55rem .75rem .55rem 0;border-bottom:1px solid var(--line);vertical-align:top}
tbody th{color:var(--text);font-weight:600;font-size:1rem;overflow-wrap:anywhere}
td small,th small,li small{display:block;color:var(--soft);font-weight:400;overflow-wrap:anywhere}
td.n,time,tbody th small{white-space:nowrap}
.wide{overflow-x:auto}
@media(max-width:34rem){body{padding:1.25rem .9rem 3rem}td,th{padding-right:.35rem}small.id{display:none}
td{font-size:.9rem}}
.latest{display:inline-block;background:var(--markback);color:var(--mark);border-radius:.3rem;padding:0 .4rem;
font-size:.8rem;font-weight:500}
.bad{color:var(--bad)}
ul{padding-left:1.2rem}
li{margin:.5rem 0;overflow-wrap:anywhere}
"""


def make_page(index: Index, files: Files, base: str) -> bytes:
    """The page of a name, the same for the same record.

    Args:
        index: What is published.
        files: Where its files are.
        base: The URL that answers to the root of the tree, without a slash at its end; empty: the name's own.

    Returns:
        HTML in UTF-8 that carries the tags of DSC-03, for as many templates as there are ways to what is
        published: first that of versions, then one for each platform's ``latest``.
    """
    name = index.name
    host = name.partition("/")[0]
    root = base or f"https://{host}"
    # Within the name's own host the template says {name}: what is asked for below this name is then not found
    # instead of being answered by this image.
    stem = f"{base}/{files.stem(name)}" if base else "https://{name}" + ("" if files.last else "/{name}")
    newest = index.newest()
    tokens = {platform: index.tokens[platform][0] for platform in sorted(newest)}
    templates = [f"{stem}-{{version}}-{{os}}-{{arch}}.{{ext}}"]
    templates += [
        f"{stem}-{{version}}-{{os}}-{{arch}}-{token}.{{ext}}" for token in dict.fromkeys(tokens.values())
    ]
    tags = [_tag("ac-discovery", f"{name} {template}") for template in templates]
    tags += [
        _tag("ac-discovery-pubkeys", f"{name} {root}/{files.key(signer.fingerprint)}")
        for signer in index.signers
    ]
    images = sorted(index.images, key=lambda image: image.age, reverse=True)
    rows = [_row(image, index, files, root, latest=newest.get(image.platform) == image) for image in images]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        MARK,
        *tags,
        *_HEAD,
        f"<title>{_text(name)}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        "<main>",
        f"<h1>{_text(name)}</h1>",
        '<p class="soft">App Container images, served as plain files.</p>',
        *_commands(index, files, root),
        "<h2>Versions</h2>",
        '<div class="wide" role="region" aria-label="versions" tabindex="0">',
        "<table>",
        f"<thead><tr>{_COLUMNS}</tr></thead>",
        "<tbody>",
        *rows,
        "</tbody>",
        "</table>",
        "</div>",
        *_keys(index.signers, files, root),
        "</main>",
        "</body>",
        "</html>",
        "",
    ]
    return "\n".join(parts).encode()


def _text(text: str) -> str:
    return escape(one_line(text))


def _tag(kind: str, content: str) -> str:
    return f'<meta name="{kind}" content="{_text(content)}">'


def _commands(index: Index, files: Files, root: str) -> list[str]:
    name = _text(index.name)
    which = f"The latest version; <code>{name}:VERSION</code> is one of those below."
    fetch = ["<h2>Fetch</h2>", f"<pre>gantry fetch {name}</pre>", f'<p class="soft">{which}</p>']
    if not index.signers:
        return fetch
    return [
        "<h2>Trust</h2>",
        "<p>Once on each host, before the first fetch. A page cannot prove whose key it shows:",
        "compare the fingerprint with what its owner told you another way.</p>",
        *(
            f"<pre>gantry trust --prefix={name} \\\n  --fingerprint={signer.fingerprint} \\\n"
            f"  {_text(_url(root, files.key(signer.fingerprint)))}</pre>"
            for signer in index.signers
        ),
        *fetch,
    ]


def _url(root: str, path: str) -> str:
    return f"{root}/{path}"


def _row(image: Published, index: Index, files: Files, root: str, latest: bool) -> str:
    mark = ' <span class="latest">latest</span>' if latest else ""
    path = _text(f"{root}/{files.image(index.name, image)}")
    what = _text(f"{image.version} for {image.os}/{image.arch}")
    links = f'<a href="{path}" aria-label="image {what}">image</a>'
    if image.signed is None:
        signed = '<span class="bad">not signed</span>'
    else:
        links += f' <a href="{path}.asc" aria-label="signature of {what}">signature</a>'
        who = next((s for s in index.signers if s.fingerprint == image.key), None)
        signed = (
            f'<time datetime="{image.signed}">{image.signed[:10]}</time>'
            f"<small>{_text(_who(who) if who else str(image.key))}</small>"
        )
    return (
        f'<tr><th scope="row">{_text(image.version)}{mark}'
        f"<small>{_text(image.os)}/{_text(image.arch)}</small></th>"
        f'<td class="n">{_size(image.size)}</td><td>{signed}</td>'
        f'<td>{links}<small class="id"><code>{_text(image.id[:19])}</code></small></td></tr>'
    )


def _keys(signers: tuple[Signer, ...], files: Files, root: str) -> list[str]:
    if not signers:
        return []
    items = []
    for signer in signers:
        grouped = " ".join(signer.fingerprint[at : at + 4] for at in range(0, len(signer.fingerprint), 4))
        until = f"until {signer.expires[:10]}" if signer.expires else "without an end"
        items.append(
            f"<li>{_text(_who(signer))}<small><code>{grouped}</code></small>"
            f'<small><a href="{_text(_url(root, files.key(signer.fingerprint)))}">public key</a>,'
            f" {until}</small></li>"
        )
    return ["<h2>Signing keys</h2>", "<ul>", *items, "</ul>"]


def _who(signer: Signer) -> str:
    return ", ".join(signer.user_ids) or signer.fingerprint


def _size(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
