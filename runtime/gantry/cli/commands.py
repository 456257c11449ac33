"""Every verb of the command line, declared once: for parsing, for help and for completion."""

# Longer than 500 lines because it is one table.

from __future__ import annotations

from gantry.cli.commands_apps import APPS
from gantry.cli.flags import (
    APP,
    EXPECT,
    FORMAT,
    FULL,
    GLOBAL,
    GRACE_PERIOD,
    NETWORK,
    NO_LEGEND,
    OVERWRITE,
    PATCH,
    POD,
    PRETTY_PRINT,
    PULL,
    PULL_FOR_FETCH,
    SANDBOX,
    SIGNATURE,
    STAGE1,
    UUID_FILE,
    UUID_FILE_SAVE,
)
from gantry.cli.grammar import Command, Grammar
from gantry.cli.values import Flag

_IMMUTABLE = "a pod does not change once it exists; describe the pod you want and use 'gantry apply'"
_FETCH = frozenset({"image", "tls", "http"})

_RUNNING = (
    Command(
        ("run",),
        "Run images as one pod, in front",
        "[flags] IMAGE [app flags] [-- ARG… [---]] [IMAGE …]",
        handler="run:run",
        flags=(NETWORK, *POD, *SANDBOX, *PULL, *STAGE1, UUID_FILE_SAVE),
        app_flags=APP,
        app_arguments=True,
        insecure=_FETCH,
        root=True,
        description="Fetches what is missing, prepares a pod and runs it until its apps end. The exit status "
        "is the first app's that failed. An image is a name (example.com/app:1.0), an image ID, a file or a "
        "URL.",
        example=(
            "gantry run example.com/app:1.0",
            "gantry run --port=http:8080 example.com/app:1.0 --memory=64Mi -- --verbose ---",
        ),
    ),
    Command(
        ("prepare",),
        "Prepare a pod to be run later",
        "[flags] IMAGE [app flags] [-- ARG… [---]] [IMAGE …]",
        handler="run:prepare",
        flags=(
            Flag("quiet", "bool", "print nothing but the UUID", False),
            NETWORK,
            *POD,
            *SANDBOX,
            *PULL,
            *STAGE1,
            UUID_FILE_SAVE,
            FORMAT,
        ),
        app_flags=APP,
        app_arguments=True,
        insecure=_FETCH,
        root=True,
        description="As run, up to the point where the pod would start; prints its UUID.",
        example=("gantry prepare example.com/app:1.0",),
    ),
    Command(
        ("run-prepared",),
        "Run a prepared pod",
        "UUID",
        handler="run:run_prepared",
        flags=(
            Flag("leave", "bool", "hand the app to systemd and return; for units of Type=notify", False),
            NETWORK._replace(refuse="the network of a pod is fixed when it is prepared"),
            *(f._replace(refuse=f.refuse or "give it to prepare") for f in SANDBOX),
            UUID_FILE,
        ),
        arguments=(0, 1),
        root=True,
    ),
    Command(
        ("pod-stopped",),
        "Record the end of a pod that systemd ran",
        "UUID",
        handler="run:pod_stopped",
        arguments=(1, 1),
        root=True,
        hidden=True,
    ),
)

_PODS = (
    Command(
        ("export",),
        "Make an image of what an app of an exited pod left behind",
        "UUID FILE.aci",
        handler="build:export",
        flags=(
            Flag("app", "str", "which app; not needed if the pod has only one", "", metavar="NAME"),
            OVERWRITE,
            FORMAT,
        ),
        arguments=(2, 2),
        root=True,
        description="The image has the files of the app's root as they are now, and depends on nothing. What "
        "is in volumes is not in it. Prints the image ID. The image is not signed: see gantry sign.",
        example=("gantry export 6a1f44a2 debug.aci",),
    ),
    Command(
        ("list",),
        "List pods",
        handler="pods:list_pods",
        flags=(NO_LEGEND, FULL, FORMAT),
        example=("gantry list --full", "gantry list --format=json"),
    ),
    Command(
        ("status",),
        "Show the state of a pod",
        "UUID|NAME",
        handler="pods:status",
        flags=(
            Flag("wait", "wait", "wait until the pod has ended", None, metavar="DURATION"),
            Flag(
                "wait-ready",
                "wait",
                "",
                None,
                refuse="readiness is not built yet; ask for state=running",
            ),
            FORMAT,
            UUID_FILE,
        ),
        arguments=(0, 1),
    ),
    Command(
        ("stop",),
        "Stop pods",
        "UUID|NAME…",
        handler="pods:stop",
        flags=(
            Flag("force", "bool", "kill instead of asking the apps to end", False),
            Flag("wait", "bool", "return when the pods have ended", False),
            Flag("timeout", "duration", "with --wait: when to give up", 30.0, metavar="DURATION"),
            UUID_FILE,
            FORMAT,
        ),
        arguments=(0, None),
    ),
    Command(
        ("rm",),
        "Remove pods that do not run",
        "UUID…",
        handler="pods:remove",
        flags=(UUID_FILE, FORMAT),
        arguments=(0, None),
        root=True,
    ),
    Command(
        ("gc",),
        "Remove what pods have left behind",
        handler="pods:collect",
        flags=(
            GRACE_PERIOD,
            Flag(
                "expire-prepared",
                "duration",
                "age at which prepared pods are garbage",
                86400.0,
                metavar="DURATION",
            ),
            Flag("mark-only", "bool", "only mark exited pods", False),
            Flag("dry-run", "bool", "only say what would be marked and removed", False),
            FORMAT,
        ),
        root=True,
    ),
    Command(
        ("cat-manifest",),
        "Show the manifest of a pod",
        "UUID|NAME",
        handler="pods:cat_manifest",
        flags=(PRETTY_PRINT, UUID_FILE),
        arguments=(0, 1),
    ),
)

_IMAGES = (
    Command(
        ("fetch",),
        "Fetch and verify images",
        "[flags] IMAGE [--signature=FILE] …",
        handler="images:fetch",
        flags=(*PULL_FOR_FETCH, FULL, FORMAT),
        app_flags=(SIGNATURE,),
        insecure=_FETCH,
        example=("gantry fetch example.com/app:1.0",),
        description="Finds the image by its name, checks its signature against the trusted keys and stores "
        "it. Prints one image ID per image.",
    ),
    Command(
        ("image", "list"),
        "List images in the store",
        handler="images:list_images",
        flags=(
            Flag("fields", "csv", "columns: id, name, size, importtime, lastused, kept", metavar="LIST"),
            Flag("sort", "csv", "order by: name, importtime, lastused, size", metavar="LIST"),
            Flag("order", "str", "asc or desc", "asc", metavar="ORDER"),
            NO_LEGEND,
            FULL,
            FORMAT,
        ),
    ),
    Command(
        ("image", "patch-manifest"),
        "Copy an image file with some of its manifest changed",
        "[flags] FILE.aci [NEW.aci]",
        handler="patch:patch_manifest",
        flags=(*PATCH, OVERWRITE, FORMAT),
        arguments=(1, 2),
        description="Every other byte of the archive stays. What is not named stays as it is, unknown keys "
        "and their order included. Prints the new image ID; a signature has to be made anew.",
        example=(
            "gantry image patch-manifest --name=example.com/other --env=DEBUG=1 app.aci other.aci",
            "gantry image patch-manifest --replace --capability=CAP_NET_BIND_SERVICE app.aci",
        ),
    ),
    Command(
        ("image", "cat-manifest"),
        "Show the manifest of an image, in the store or in a file",
        "IMAGE|FILE",
        handler="images:cat_manifest",
        flags=(PRETTY_PRINT,),
        arguments=(1, 1),
    ),
    Command(
        ("image", "export"),
        "Write an image to a file, as an uncompressed tar",
        "IMAGE FILE",
        handler="images:export",
        flags=(
            Flag("compressed", "bool", "as it was distributed, with its signature as FILE.asc", False),
            Flag(
                "rendered", "bool", "with its dependencies, as an image that has none; prints its ID", False
            ),
            OVERWRITE,
            FORMAT,
        ),
        arguments=(2, 2),
    ),
    Command(
        ("image", "extract"),
        "Unpack an image as it is, without its dependencies",
        "IMAGE DIR",
        handler="images:extract",
        flags=(Flag("rootfs-only", "bool", "without the manifest", False), OVERWRITE, FORMAT),
        arguments=(2, 2),
    ),
    Command(
        ("image", "render"),
        "Unpack an image with its dependencies",
        "IMAGE DIR",
        handler="images:render",
        flags=(Flag("rootfs-only", "bool", "without the manifest", False), OVERWRITE, FORMAT),
        arguments=(2, 2),
    ),
    Command(
        ("image", "rm"),
        "Remove images from the store",
        "IMAGE…",
        handler="images:remove",
        flags=(FORMAT,),
        arguments=(1, None),
    ),
    Command(
        ("image", "gc"),
        "Remove images and rendered trees that nothing uses",
        handler="keeping:collect",
        flags=(
            GRACE_PERIOD._replace(default=86400.0, help="how long unused images are kept"),
            Flag(
                "free",
                "size",
                "have this much disk space free: until it is, unused images go within the grace period, too, "
                "those unused for longest first",
                0,
                metavar="SIZE",
            ),
            Flag("dry-run", "bool", "only say what would be removed", False),
            FORMAT,
        ),
        description="Says what was removed, and of every image that something refers to why it stays: pods "
        "that use it, named pods that run or ran it, sets that list it, pins, images that depend on it. The "
        "exit status is 254 when --free could not be had.",
    ),
    Command(
        ("image", "pin"),
        "Keep images, whatever happens",
        "IMAGE…",
        handler="keeping:pin",
        flags=(
            Flag("bundle", "str", "keep exactly these, together, under this name", "", metavar="NAME"),
            FORMAT,
        ),
        arguments=(1, None),
        description="Neither 'gantry image gc' nor 'gantry image rm' removes a pinned image or one that it "
        "depends on. What an applied set lists and what named pods need is kept without this.",
    ),
    Command(
        ("image", "unpin"),
        "Keep images no longer than they are used",
        "[IMAGE…]",
        handler="keeping:unpin",
        flags=(Flag("bundle", "str", "all images of this bundle", "", metavar="NAME"), FORMAT),
        arguments=(0, None),
    ),
    Command(
        ("image", "usage"),
        "Show where the disk space of the store is",
        handler="images:usage",
        flags=(NO_LEGEND, FULL, FORMAT),
        description="Every byte of the store belongs to one line: images, rendered trees, downloads that go "
        "on or can be continued, leftovers of killed processes, which 'gantry image gc' removes, and the "
        "store's own records.",
    ),
    Command(
        ("image", "adopt"),
        "Take in the images that members of the group gantry have fetched",
        "",
        handler="members:adopt",
        flags=(FORMAT,),
        root=True,
        description="Each image is judged anew, as if a stranger had brought it. A store that was made "
        "before the group is opened to it.",
    ),
    Command(
        ("image", "validate"),
        "Check image files and layouts against the specification",
        "FILE…",
        handler="validate:validate",
        flags=(FORMAT,),
        arguments=(1, None),
    ),
    Command(
        ("image", "verify"),
        "Check images and their rendered trees, and repair the trees",
        "[IMAGE…]",
        handler="images:verify",
        flags=(Flag("check", "bool", "only say what differs; the exit status tells, too", False), FORMAT),
        arguments=(0, None),
        description="Reads the images again and compares every file of the trees that pods run from: "
        "content, mode, owner, time, links, attributes, what is missing and what was added. A tree that "
        "differs is made anew; pods that run keep the files they have until they end. Without IMAGE, all "
        "images.",
    ),
    Command(
        ("image", "fetch"),
        "Fetch and verify images",
        "[flags] IMAGE [--signature=FILE] …",
        handler="images:fetch",
        flags=(*PULL_FOR_FETCH, FULL, FORMAT),
        app_flags=(SIGNATURE,),
        insecure=_FETCH,
        hidden=True,
    ),
    Command(
        ("build",),
        "Make an image from a directory, a tar or a build file",
        "DIR|TAR|-|FILE.toml FILE.aci",
        handler="build:build",
        flags=(
            Flag("manifest", "str", "image manifest; DIR or TAR is the root file system", "", metavar="FILE"),
            Flag("compression", "str", "gzip, bzip2, xz, zstd or none", "gzip", metavar="KIND"),
            Flag("owner-root", "bool", "root owns everything in the image", False),
            Flag("check", "bool", "only check the build file", False),
            *PULL,
            OVERWRITE,
            FORMAT,
        ),
        arguments=(1, 2),
        insecure=_FETCH,
        description="DIR holds manifest and rootfs, or is the root file system itself when --manifest names "
        "the manifest. A tar, compressed or not, is always the root file system; - is standard input. The "
        "same input always gives the same bytes; no time in the image is later than the seconds in "
        "SOURCE_DATE_EPOCH, when the environment has it. Only Gantry reads images compressed by zstd. A "
        "build file says step by step what an image is made of (docs/build-files.md); its base is fetched "
        "like any image.",
        example=(
            "gantry build ./layout app.aci",
            "gantry build app.toml app.aci",
            "gantry build --manifest=manifest.json ./rootfs app.aci",
            "gantry build --manifest=manifest.json - app.aci < rootfs.tar",
        ),
    ),
    Command(
        ("push",),
        "Publish an image so that any web server is a registry",
        "[flags] IMAGE|FILE.aci DEST",
        handler="push:push",
        flags=(
            Flag(
                "public-key",
                "str",
                "the key that signed it; by default one that is trusted here",
                "",
                metavar="FILE",
            ),
            Flag("url", "str", "the URL that serves DEST, if it is not https://HOST", "", metavar="URL"),
            Flag("keep", "int", "versions of each platform that stay; all when absent", None, metavar="N"),
            Flag("not-latest", "bool", "who asks for no version does not get this one", False),
            FORMAT,
        ),
        arguments=(2, 2),
        insecure=frozenset({"image", "tls", "http"}),
        description="Writes image, signature, key and a page for discovery and for people. DEST is what a "
        "web server serves as https://HOST/ for the name HOST/...: a directory, ssh://HOST/PATH or HOST:PATH "
        "(rsync), or an https URL that takes PUT. Readers see the old state or the new one. The signature is "
        "checked first; a version never changes.",
        example=(
            "gantry push --public-key=public.asc app.aci /srv/www",
            "gantry push --keep=5 example.com/app:1.0 web@example.com:/srv/www",
        ),
    ),
    Command(
        ("sign",),
        "Sign an image file",
        "FILE",
        handler="build:sign",
        flags=(
            Flag("key", "str", "armored secret key without a passphrase", "", metavar="FILE"),
            Flag("gpg-key", "str", "key that GnuPG's agent holds, by its fingerprint", "", metavar="FPR"),
            Flag("output", "str", "where the signature goes; FILE.asc when absent", "", metavar="FILE"),
            Flag("force", "bool", "sign it even if it is no valid image", False),
            OVERWRITE,
            FORMAT,
        ),
        arguments=(1, 1),
        description="The file is checked first as a host would check it. The signature is detached and "
        "armored, over the file as it is distributed, and named FILE.asc.",
        example=(
            "gantry sign --key=release-key.asc app.aci",
            "gantry sign --gpg-key=0123456789ABCDEF0123456789ABCDEF01234567 app.aci",
        ),
    ),
)

_TRUST = (
    Command(
        ("trust",),
        "Trust a key for image names",
        "[--prefix=NAME|--root] KEYFILE…",
        handler="trust:add",
        flags=(
            Flag("prefix", "str", "trust the key for this name and everything below it", "", metavar="NAME"),
            Flag("root", "bool", "trust the key for every name", False),
            Flag("fingerprint", "str", "the only fingerprint that is accepted", "", metavar="HEX"),
            Flag("insecure-allow-http", "bool", "allow http for discovery and download", False),
            Flag("skip-fingerprint-review", "bool", "do not ask", False),
            FORMAT,
        ),
        arguments=(0, None),
        insecure=frozenset({"tls", "http", "pubkey"}),
        description="Without KEYFILE, keys are found by discovery of the prefix. A key is a file or an https "
        "URL. Its fingerprint is shown and must be confirmed, unless --fingerprint names it.",
        example=("gantry trust --prefix=example.com/app --fingerprint=HEX key.asc",),
    ),
    Command(("trust", "list"), "List trusted keys", handler="trust:list_keys", flags=(NO_LEGEND, FORMAT)),
    Command(
        ("trust", "rm"),
        "Trust a key no longer",
        "FINGERPRINT",
        handler="trust:remove",
        flags=(
            Flag("prefix", "str", "only for this name", "", metavar="NAME"),
            Flag("root", "bool", "only for every name", False),
            FORMAT,
        ),
        arguments=(1, 1),
    ),
    Command(
        ("trust", "check"),
        "Tell how the trusted keys stand, before images are refused",
        handler="trust:check",
        flags=(
            Flag(
                "within",
                "duration",
                "what ends within this time deserves attention",
                2592000.0,
                metavar="DURATION",
            ),
            NO_LEGEND,
            FORMAT,
        ),
        description="The exit status is 0 when every key is fine, 1 when one deserves attention, and 254 "
        "when no image that one of them signs is accepted.",
        example=("gantry trust check --within=30d",),
    ),
    Command(
        ("trust", "policy"),
        "Print the rules by which signatures and keys are accepted",
        handler="trust:policy",
        flags=(FORMAT,),
    ),
    Command(
        ("trust", "mask"),
        "Do not trust a key for a name, whoever trusts it for a wider one",
        "[--prefix=NAME|--root] FINGERPRINT",
        handler="trust:mask",
        flags=(
            Flag("prefix", "str", "for this name and everything below it", "", metavar="NAME"),
            Flag("root", "bool", "for every name, when the vendor trusts it so", False),
            FORMAT,
        ),
        arguments=(1, 1),
        description="Leaves a mark that beats the vendor's keys and those of every wider name; adding the "
        "key for the same name takes the mark away.",
        example=("gantry trust mask --prefix=example.com/app 0123456789ABCDEF0123456789ABCDEF01234567",),
    ),
)

_NAMED = (
    Command(
        ("apply",),
        "Bring the host to the state described on standard input",
        handler="apply:apply",
        flags=(
            Flag("check", "bool", "only say what would change", False),
            FORMAT,
        ),
        insecure=_FETCH,
        description="Reads one JSON document (docs/desired-state.md), changes what differs, and prints what "
        "it did. A second run changes nothing.",
        example=("gantry apply --check < host.json",),
    ),
    Command(("pod", "list"), "List named pods", handler="named:list_pods", flags=(NO_LEGEND, FORMAT)),
    Command(
        ("pod", "status"),
        "Show a named pod, its unit and its history",
        "NAME",
        handler="named:status",
        flags=(FORMAT,),
        arguments=(1, 1),
    ),
    *(
        Command(
            ("pod", verb),
            summary,
            "NAME…",
            handler=f"named:{handler}",
            flags=(FORMAT,),
            arguments=(1, None),
            root=True,
        )
        for verb, summary, handler in (
            ("start", "Start named pods, now and at boot", "start"),
            ("stop", "Stop named pods, now and at boot", "stop"),
            ("restart", "Stop and start named pods", "restart"),
            ("rm", "Remove named pods with everything that belongs to them", "remove"),
        )
    ),
)

_OTHERS = (
    Command(
        ("audit", "list"),
        "Show the record of decisions",
        handler="audit:list_entries",
        flags=(
            Flag("event", "str", "only this event, such as image.refuse", "", metavar="EVENT"),
            Flag("since", "str", "only from this time on (RFC 3339)", "", metavar="TIME"),
            Flag("limit", "int", "only the newest N", None, metavar="N"),
            NO_LEGEND,
            FORMAT,
        ),
    ),
    Command(
        ("audit", "verify"),
        "Check that the record of decisions is whole",
        handler="audit:verify",
        flags=(EXPECT, FORMAT),
        description="Prints the head of each record. Whoever may write the record may also cut it without a "
        "trace on this host; a head that was kept elsewhere and is handed back with --expect shows it.",
        example=(
            "gantry audit verify",
            f"gantry audit verify --expect={'0123456789abcdef' * 4}",
        ),
    ),
    Command(
        ("metadata-service",),
        "Serve pods their metadata",
        handler="services:metadata",
        flags=(
            Flag("listen-port", "int", "port on 127.0.0.1", 18112, metavar="PORT"),
            Flag("user", "str", "the user to become", "gantry-metadata", metavar="USER"),
        ),
    ),
    Command(
        ("signer-service",),
        "Hold the keys of pods and sign for them",
        handler="services:signer",
        flags=(
            Flag("user", "str", "the user to become", "gantry-signer", metavar="USER"),
            Flag("metadata-user", "str", "the user who may ask", "gantry-metadata", metavar="USER"),
        ),
    ),
    Command(
        ("config",),
        "Show the directories in use",
        handler="about:config",
        flags=(PRETTY_PRINT,),
    ),
    Command(("version",), "Show versions", handler="about:version", flags=(FORMAT,)),
    Command(
        ("completion",),
        "Print a completion script",
        "SHELL",
        handler="about:completion",
        arguments=(0, None),
        example=("gantry completion bash > /etc/bash_completion.d/gantry",),
    ),
    Command(("help",), "Show help on a command", "[COMMAND]", handler="about:help_on", arguments=(0, None)),
)

_NOT_AVAILABLE = (
    Command(
        ("attach",),
        "",
        arguments=(0, None),
        refuse="the streams of an app are not kept open; 'gantry enter' runs a command beside it",
        hidden=True,
    ),
    Command(
        ("api-service",),
        "",
        arguments=(0, None),
        refuse="nothing of Gantry is a daemon; use --format=json",
        hidden=True,
    ),
    Command(("install",), "", arguments=(0, None), refuse="every command creates what it needs", hidden=True),
    *(
        Command(("app", verb), "", stop_at_first=True, arguments=(0, None), refuse=_IMMUTABLE, hidden=True)
        for verb in ("sandbox", "add", "start", "stop", "rm")
    ),
)

COMMANDS = (*_RUNNING, *_PODS, *APPS, *_IMAGES, *_TRUST, *_NAMED, *_OTHERS, *_NOT_AVAILABLE)
GRAMMAR = Grammar(COMMANDS, GLOBAL)
