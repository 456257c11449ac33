# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""PRIVATE to the collection: how modules talk to the runtime.

The runtime decides everything: what is there, what would change, what did. A module hands it one document on
standard input, never on the command line where every user of the host could read it, and returns its answer.

Secrets: values of ``environment`` may be secrets, and Ansible's own ``no_log`` is of no use for them: it would
replace the *text* of every value, so that a variable set to ``1`` garbles every number in the result. So the
arguments are not logged to the host's journal, the echoed arguments carry a mask in place of the values, and
long values are masked wherever else they would appear.
"""

from __future__ import annotations

import json
import math
import os

from ansible.module_utils.basic import AnsibleModule

__all__ = ["COMMAND", "GantryModule", "without_unset"]

COMMAND = "/opt/gantry/current/bin/gantry"
MASK = "********"
SHORTEST_MASKED = 6
"""Shorter values are not looked for in other text: they are words of the language more often than secrets."""

COMMON_OPTIONS = {
    "ca_file": {"type": "path"},
    "insecure_options": {"type": "list", "elements": "str", "choices": ["image", "tls", "http", "downgrade"], "default": []},
    "gantry_command": {"type": "path", "default": COMMAND},
}


def without_unset(value):
    """*value* without the keys that the task did not set, at every depth."""
    if isinstance(value, dict):
        return {key: without_unset(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [without_unset(item) for item in value]
    return value


class UnclearValueError(ValueError):
    """A value of an environment that cannot be meant; the text is one line for the user."""


def text_environment(document):
    """A copy of *document* whose numbers in ``environment`` are text, as they look in YAML.

    A document for the runtime is exact and takes text only, but in a playbook ``PORT: 8080`` is a number without anybody
    having meant one. A truth value is refused instead: ``yes``, ``on`` and ``true`` are all the same to YAML, and no
    guess at what was written would be right for every app.

    Raises:
        UnclearValueError: A truth value, or a number that has no plain spelling.
    """
    result = dict(document)
    if isinstance(document.get("pods"), list):
        result["pods"] = [_text_pod(pod, "$.pods[%d]" % index) for index, pod in enumerate(document["pods"])]
    return result


def _text_pod(pod, where):
    """The pod of a document with texts in its environments; what has another shape is left for the runtime to refuse."""
    if not isinstance(pod, dict) or not isinstance(pod.get("apps"), list):
        return pod
    return {**pod, "apps": [_text_app(app, "%s.apps[%d]" % (where, index)) for index, app in enumerate(pod["apps"])]}


def _text_app(app, where):
    """One app of it."""
    if not isinstance(app, dict) or not isinstance(app.get("environment"), dict):
        return app
    variables = app["environment"].items()
    return {**app, "environment": {n: _text_value(v, "%s.environment.%s" % (where, n)) for n, v in variables}}


def _text_value(value, where):
    """*value* as text if it is a number."""
    if isinstance(value, bool):
        raise UnclearValueError("%s: must be text, not a truth value (put what the app should read in quotes)" % where)
    if isinstance(value, float) and not math.isfinite(value):
        raise UnclearValueError("%s: must be text, not %s (put it in quotes)" % (where, value))
    return str(value) if isinstance(value, (int, float)) else value


def environment_values(value):
    """Every value of every ``environment`` in *value*, as text."""
    found = set()
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "environment" and isinstance(item, dict):
                found.update(str(v) for v in item.values() if v is not None)
            else:
                found |= environment_values(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            found |= environment_values(item)
    return found


def mask_environment(value):
    """A copy of *value* whose ``environment`` values are masked."""
    if isinstance(value, dict):
        return {
            key: dict.fromkeys(item, MASK) if key == "environment" and isinstance(item, dict) else mask_environment(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [mask_environment(item) for item in value]
    return value


def mask_text(value, secrets):
    """A copy of *value* in whose texts the *secrets* (longest first) are masked; keys stay as they are."""
    if isinstance(value, dict):
        return {key: mask_text(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask_text(item, secrets) for item in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
    return value


def secrets_of(params):
    """What to mask in texts, longest first: values of environments that the task does not also say openly."""
    openly = json.dumps(mask_environment(params), ensure_ascii=False, default=str)
    values = (v for v in environment_values(params) if len(v) >= SHORTEST_MASKED and v not in openly)
    return sorted(values, key=lambda v: (-len(v), v))


class GantryModule(AnsibleModule):
    """A module that speaks to the runtime.

    Args:
        options: The argument specification beyond the options that all these modules share.
        shared: The options that they share.
        **kwargs: As for AnsibleModule.
    """

    def __init__(self, options, shared=None, **kwargs):
        specification = {**options, **(COMMON_OPTIONS if shared is None else shared)}
        super().__init__(argument_spec=specification, supports_check_mode=True, **kwargs)

    def _log_invocation(self):
        """Say in the host's journal that the module ran, and nothing of its arguments."""
        self.log("Invoked; arguments are not logged because they may hold secrets")

    def _return_formatted(self, kwargs):
        kwargs = mask_text(kwargs, secrets_of(self.params))
        kwargs.setdefault("invocation", {"module_args": mask_environment(self.params)})
        super()._return_formatted(kwargs)

    @property
    def command(self):
        """Path of the gantry command."""
        return self.params["gantry_command"]

    @property
    def installed(self):
        """Whether the runtime is on this host."""
        return os.access(self.command, os.X_OK)

    def converge(self, document):
        """Have the runtime make *document* so, and exit with its answer. Does not return."""
        try:
            document = text_environment(document)
        except UnclearValueError as error:
            self.fail_json(msg=str(error), code="document")
        for name in ("ca_file", "insecure_options"):
            if self.params[name]:
                document[name] = self.params[name]
        if not self.installed:
            self._without_runtime(document)
        command = [self.command, "apply", "--format=json", *(["--check"] if self.check_mode else [])]
        answer = self.ask(command, json.dumps(document))
        result = {"changed": bool(answer.get("changed")), "actions": answer.get("actions", [])}
        for action in result["actions"]:
            # The same texts are in diff, and there only when they were asked for.
            action.pop("diff", None)
        if self._diff and "diff" in answer:
            result["diff"] = answer["diff"]
        error = answer.get("error")
        if error:
            self.refuse(error, **result)
        self.exit_json(**result)

    def refuse(self, error, **result):
        """Fail with the one line and the stable name of an error that the runtime reported."""
        line = error.get("msg") or error.get("message") or "gantry failed without a reason"
        self.fail_json(msg=line, code=error.get("code", "failed"), **result)

    def ask(self, command, data=None):
        """Run the runtime and return the JSON object or list that it prints; any other end fails the module."""
        # A module may be started with any locale, or none; what the runtime reads and writes is UTF-8.
        code, output, errors = self.run_command(
            command,
            data=data,
            encoding="utf-8",
            errors="surrogateescape",
            environ_update={"LC_ALL": "C.UTF-8"},
        )
        try:
            answer = json.loads(output)
        except ValueError:
            answer = None
        told = isinstance(answer, dict) and (code == 0 or answer.get("error"))
        if not told and not (isinstance(answer, list) and code == 0):
            lines = errors.strip().splitlines() or output.strip().splitlines()
            reason = lines[-1] if lines else "it said nothing"
            self.fail_json(msg="gantry failed with status %d: %s" % (code, reason), code="runtime", rc=code)
        return answer

    def _without_runtime(self, document):
        """Nothing is installed: predict in check mode, refuse otherwise."""
        if not self.check_mode:
            self.fail_json(
                msg="the gantry runtime is not installed on this host: there is no %s (apply the role "
                "appc.gantry.runtime first)" % self.command,
                code="not-installed",
            )
        wanted = mask_environment({key: value for key, value in document.items() if value})
        for entry in wanted.get("trust", []):
            # Pages of base64 tell a reader nothing that the fingerprint does not.
            entry.pop("key", None)
        actions = [
            {
                "kind": kind,
                "name": _name(item),
                "action": "converge",
                "changed": True,
                "detail": "no runtime here yet",
            }
            for kind, items in (("trust", "trust"), ("image", "images"), ("pod", "pods"))
            for item in document.get(items) or []
            if item.get("state") != "absent"
        ]
        after = json.dumps(wanted, indent=1, sort_keys=True) + "\n"
        result = {"changed": bool(actions), "actions": actions}
        if self._diff:
            result["diff"] = {"before": "", "after": after if actions else ""}
        self.exit_json(**result)


def _name(item):
    """What to call *item* of a document."""
    return str(item.get("name") or item.get("prefix") or item.get("fingerprint") or "root")
