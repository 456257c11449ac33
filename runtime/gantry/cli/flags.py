"""The flags that several commands share, and the global ones."""

from __future__ import annotations

from gantry.cli.values import Flag
from gantry.config import DEFAULT_DATA, DEFAULT_LOCAL, DEFAULT_RUN, DEFAULT_SYSTEM

FORMATS = ("", "json", "json-pretty")
PULL_POLICIES = ("new", "update", "never")

# Reasons that several flags share.
NO_STAGE1 = "flavors are installed in stage1.d and named by --stage1-name"

GLOBAL = (
    Flag("debug", "bool", "show what is done, and every cause of an error", False),
    Flag("dir", "str", "data directory", DEFAULT_DATA, metavar="DIR"),
    Flag(
        "run-dir",
        "str",
        "directory of sockets and of state that ends with the boot",
        DEFAULT_RUN,
        metavar="DIR",
    ),
    Flag("system-config", "str", "vendor's keys", DEFAULT_SYSTEM, metavar="DIR"),
    Flag("local-config", "str", "administrator's keys", DEFAULT_LOCAL, metavar="DIR"),
    Flag("user-config", "str", "user's own keys and credentials", "", metavar="DIR"),
    Flag(
        "insecure-options",
        "csv",
        "checks to switch off: image, tls, http, pubkey, all-fetch; said each time",
        metavar="LIST",
    ),
    Flag("ca-file", "str", "certificate authorities for https, instead of the host's", "", metavar="FILE"),
    Flag(
        "trust-keys-from-https",
        "bool",
        "accept keys found by discovery without asking",
        False,
        refuse="keys are not discovered during a fetch; add them before with 'gantry trust'",
    ),
    Flag("insecure-skip-verify", "bool", "", refuse="use --insecure-options=image", hidden=True),
    Flag("cpuprofile", "str", "", refuse="profile with 'python3 -m cProfile' instead", hidden=True),
    Flag("memprofile", "str", "", refuse="profile with 'python3 -m tracemalloc' instead", hidden=True),
    Flag("unit-dir", "str", "where units of named pods are written", "", metavar="DIR", hidden=True),
)

FORMAT = Flag("format", "str", "json, json-pretty, or text when absent", "", metavar="FORMAT")
NO_LEGEND = Flag("no-legend", "bool", "leave the header out", False)
FULL = Flag("full", "bool", "show whole identifiers and exact times", False)
UUID_FILE = Flag("uuid-file", "str", "read the pod's UUID from this file", "", metavar="FILE")
UUID_FILE_SAVE = Flag("uuid-file-save", "str", "write the pod's UUID to this file", "", metavar="FILE")
PRETTY_PRINT = Flag("pretty-print", "bool", "indent the JSON", True)
GRACE_PERIOD = Flag("grace-period", "duration", "how long exited pods are kept", 1800.0, metavar="DURATION")
OVERWRITE = Flag("overwrite", "bool", "replace what is there", False)
EXPECT = Flag(
    "expect",
    "csv",
    "head printed by an earlier verify, kept outside of this host: [host:|signer:]HASH",
    metavar="HASH",
)
SIGNATURE = Flag("signature", "str", "signature file of the image before it", "", metavar="FILE")

# The first half is what the older tool has, in its spelling.
PATCH = (
    Flag("name", "str", "the image's name", "", metavar="NAME"),
    Flag("exec", "str", "command, split at blanks, or a JSON list of its words", "", metavar="COMMAND"),
    Flag("user", "str", "user of the app", "", metavar="USER"),
    Flag("group", "str", "group of the app", "", metavar="GROUP"),
    Flag("supplementary-groups", "csv", "its further groups, all of them", metavar="GIDS"),
    Flag("capability", "csv", "keep only these capabilities", metavar="CAPS"),
    Flag("revoke-capability", "csv", "take these capabilities away", metavar="CAPS"),
    Flag("mounts", "str", "mount points, all of them", "", metavar="NAME,path=/x[,readOnly=true][:…]"),
    Flag("ports", "str", "ports, all of them", "", metavar="NAME,protocol=tcp,port=80[:…]"),
    Flag("isolators", "str", "isolators, all of them", "", metavar="NAME,KEY=VALUE,…[:…]"),
    Flag("seccomp-mode", "str", "retain or remove", "", metavar="MODE[,errno=NAME]"),
    Flag("seccomp-set", "csv", "system calls of --seccomp-mode", metavar="CALLS"),
    Flag("manifest", "str", "another manifest instead of the old one", "", metavar="FILE"),
    Flag("replace", "bool", "change FILE.aci itself", False),
    Flag("no-compression", "bool", "write a plain tar", False),
    Flag("compression", "str", "gzip, bzip2, xz, zstd or none; as it was when absent", "", metavar="KIND"),
    Flag("label", "list", "set a label", metavar="NAME=VALUE"),
    Flag("remove-label", "csv", "remove a label", metavar="NAME"),
    Flag("annotation", "list", "set an annotation", metavar="NAME=VALUE"),
    Flag("remove-annotation", "csv", "remove an annotation", metavar="NAME"),
    Flag("env", "list", "set an environment variable", metavar="NAME=VALUE"),
    Flag("remove-env", "csv", "remove an environment variable", metavar="NAME"),
    Flag("isolator", "list", "set one isolator", metavar="NAME=JSON"),
    Flag("remove-isolator", "csv", "remove an isolator", metavar="NAME"),
    Flag("working-dir", "str", "working directory of the app", "", metavar="PATH"),
)

PULL = (
    Flag("pull-policy", "str", "when to ask the network: new, update or never", "new", metavar="POLICY"),
    Flag("store-only", "bool", "use only the store", False, deprecated="please use --pull-policy=never"),
    Flag("no-store", "bool", "do not use the store", False, deprecated="please use --pull-policy=update"),
    Flag("allow-downgrade", "bool", "accept older signatures than the newest of a name so far", False),
    Flag("no-cache", "bool", "ask servers also when they said how long their answer holds", False),
    Flag("limit-rate", "size", "bytes a second that downloads take, all together", None, metavar="SIZE"),
    Flag(
        "progress",
        "str",
        "auto (bars on a terminal), none, or json: lines for machines",
        "auto",
        metavar="KIND",
    ),
)
PULL_FOR_FETCH = (PULL[0]._replace(default="update"), *PULL[1:])

STAGE1 = (
    Flag("stage1-name", "str", "isolation flavor: oci, fly, or one that is installed", "", metavar="NAME"),
    Flag("stage1-path", "str", "", refuse=NO_STAGE1),
    Flag("stage1-url", "str", "", refuse="fetch the image first; " + NO_STAGE1),
    Flag("stage1-hash", "str", "", refuse=NO_STAGE1),
    Flag("stage1-from-dir", "str", "", refuse=NO_STAGE1),
)

# What decides about the life of the sandbox: with rkt flags of `run` and `run-prepared`.
NETWORK = Flag(
    "net",
    "csv",
    "networks: default, none, host, all, or configured ones (NAME[:ARGS]); bare means default",
    bare="default",
    metavar="LIST",
)
SANDBOX = (
    Flag("hostname", "str", "the pod's host name; gantry-UUID when absent", "", metavar="NAME"),
    Flag("interactive", "bool", "the app has our terminal, or our input; for pods of one app", False),
    Flag(
        "dns", "csv", "name server of the apps; host: the host's resolv.conf, none: the image's", metavar="IP"
    ),
    Flag("dns-search", "csv", "domain in which names without dots are looked for", metavar="DOMAIN"),
    Flag("dns-opt", "csv", "option of the apps' resolver", metavar="OPTION"),
    Flag("dns-domain", "str", "local domain of the apps", "", metavar="DOMAIN"),
    Flag("hosts-entry", "csv", "entry of /etc/hosts; host: the host's file", metavar="IP=NAME[,…]"),
    Flag("ipc", "str", "", refuse="a pod always has an IPC namespace of its own"),
    Flag(
        "mds-register",
        "bool",
        "insist on the metadata service: fail when it is not there",
        False,
    ),
)

POD = (
    Flag(
        "port",
        "list",
        "forward a port of the host to the named port of an app",
        metavar="NAME:[HOSTIP:]HOSTPORT",
    ),
    Flag("inherit-env", "bool", "pass the caller's environment on, below the image's", False),
    Flag("set-env", "list", "variable for every app", metavar="NAME=VALUE"),
    Flag("set-env-file", "list", "file of variables for every app", metavar="FILE"),
    Flag(
        "volume",
        "list",
        "a volume of the pod: kind=host,source=PATH or kind=empty; create=directory makes a missing source",
        metavar="NAME,kind=KIND[,…]",
    ),
    Flag("pod-name", "str", "a name by which every verb finds the pod", "", metavar="NAME"),
    Flag(
        "exit-policy",
        "str",
        "the pod ends when any app has ended (any), when one has failed (any-failure), or when all have "
        "ended (all)",
        "any-failure",
        metavar="POLICY",
    ),
    Flag("strict", "bool", "refuse to run unless every isolator is enforced as it stands", False),
    Flag("pod-manifest", "str", "run this pod manifest; images come from it alone", "", metavar="FILE"),
    Flag("no-overlay", "bool", "", refuse="images are always shared through overlayfs"),
    Flag("private-users", "bool", "", refuse="user namespaces are not built yet"),
)

APP = (
    Flag("exec", "str", "program to run instead of the image's", "", metavar="PROGRAM"),
    Flag("name", "str", "name of the app; from the image's name when absent", "", metavar="NAME"),
    Flag("user", "str", "user of the app: name, number or path of a file in the image", "", metavar="USER"),
    Flag("group", "str", "group of the app, likewise", "", metavar="GROUP"),
    Flag("supplementary-gids", "csv", "further groups, as numbers", metavar="GIDS"),
    Flag("working-dir", "str", "working directory of the app", "", metavar="DIR"),
    Flag("environment", "list", "variable for this app only", metavar="NAME=VALUE"),
    Flag("mount", "list", "mount a volume", metavar="volume=NAME,target=PATH"),
    Flag("mnt-volume", "list", "", refuse="use --volume and --mount"),
    Flag("readonly-rootfs", "bool", "the app cannot write to its root", False),
    Flag("annotation", "list", "annotation of the app in the pod", metavar="NAME=VALUE"),
    Flag("user-annotation", "list", "user annotation of the app", metavar="NAME=VALUE"),
    Flag("user-label", "list", "user label of the app", metavar="NAME=VALUE"),
    Flag("memory", "str", "memory limit: 64Mi, 1G", "", metavar="QUANTITY"),
    Flag("cpu", "str", "CPU limit in cores: 2, 500m", "", metavar="QUANTITY"),
    Flag("cpu-shares", "int", "relative weight, 2 to 262144", None, metavar="N"),
    Flag("caps-retain", "csv", "keep only these capabilities", metavar="CAPS"),
    Flag("caps-remove", "csv", "take these capabilities away", metavar="CAPS"),
    Flag(
        "cap-retain",
        "csv",
        "keep only these capabilities",
        deprecated="use --caps-retain instead",
        hidden=True,
    ),
    Flag("cap-remove", "csv", "take these away", deprecated="use --caps-remove instead", hidden=True),
    Flag(
        "seccomp",
        "str",
        "system calls to allow (mode=retain) or forbid (mode=remove)",
        "",
        metavar="mode=MODE,CALL,…",
    ),
    Flag(
        "oom-score-adj", "int", "how likely the kernel kills the app when memory is short", None, metavar="N"
    ),
    Flag("stdin", "str", "", refuse="apps read end of file, or our input with --interactive"),
    Flag("stdout", "str", "", refuse="output goes to ours, and of named pods to the journal"),
    Flag("stderr", "str", "", refuse="output goes to ours, and of named pods to the journal"),
    SIGNATURE,
)
