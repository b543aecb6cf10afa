"""A Terraform that can be told to go wrong: the commands, files and exit codes of the real one, for one configuration.

Run as a program, it starts in a fraction of the real one's time, which a soak needs; so it does without pathlib. It knows
`main.tf` by heart (``known.tf`` beside the program) and refuses another one, and any word it does not know. Each call takes one
fault from ``faults.json`` beside the program: ``how`` it goes wrong, and ``at`` its start, in the middle of what it writes, or
at its end. Every apply that changes something leaves a line in ``effects.log``: the token that the journal says is under way.
"""

# ruff: noqa: PTH100, PTH108, PTH110, PTH118, PTH120, PTH123, PTH202, PTH208

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from _json import make_scanner  # to import the whole of json takes as long as all the rest

STATE, BACKUP, LOCK, JOURNAL = (
    "terraform.tfstate",
    "terraform.tfstate.backup",
    ".terraform.tfstate.lock.info",
    ".forecastle/journal.json",
)
BESIDE = os.path.dirname(os.path.abspath(sys.argv[0]))
KIND, OWNER = "terraform_data", 'provider["terraform.io/builtin/terraform"]'
COUNTS = {"database": "", "web": "replicas", "worker": "workers"}
DEFAULTS = {"workers": 2, "release": "v1", "password": "hunter2-hunter2-hunter2"}
NUMBERS = {"replicas", "workers"}
FLAGS = {
    "plan": {"-input=false", "-no-color", "-json", "-detailed-exitcode", "-lock-timeout=0s"},
    "apply": {"-input=false", "-no-color", "-json", "-lock-timeout=0s", "-auto-approve"},
    "show": {"-json", "-no-color"},
}


class Reader:
    """What the scanner asks for."""

    def __init__(self):
        self.strict, self.object_hook, self.object_pairs_hook, self.memo = True, None, None, {}
        self.parse_constant, self.parse_float, self.parse_int = float, float, int


class Broken(Exception):
    """What Terraform complains of: a headline and a detail."""


# --- files ---


def loads(text):
    try:
        found, end = make_scanner(Reader())(text, 0)
    except (StopIteration, SystemError, ValueError):
        end = -1
    if end == len(text):
        return found
    import json  # the whole of it, for what is laid out otherwise than we write it, or is wrong

    return json.loads(text)


def dumps(value):
    if isinstance(value, dict):
        return "{" + ",".join(f"{dumps(str(key))}:{dumps(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumps, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or value is True or value is False else str(value)
    )


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def write(path, text):
    """In place and not synced, as Terraform writes its state."""
    with open(path, "r+" if os.path.exists(path) else "w", encoding="utf-8") as file:
        file.truncate(0)
        file.write(text)


def beside(name):
    return os.path.join(BESIDE, name)


# --- faults ---


class Fault:
    """What goes wrong with this call: nothing without ``how``."""

    def __init__(self, told):
        self.how, self.at = told.get("how", ""), told.get("at", "")
        self.share, self.summary = told.get("share", 0.5), told.get("summary", "")
        self.writes = 0

    def hit(self, at):
        """The call has come this far."""
        if self.at != at:
            return
        if self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "fail":
            raise Broken(self.summary, "")
        elif self.how == "orphan":
            os.kill(os.getppid(), signal.SIGKILL)
        elif self.how in {"hang", "deaf"}:
            if self.how == "deaf":
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            while True:
                time.sleep(60)

    def write(self, path, text):
        """The next version of a file. Torn, only a share of it arrives; what was meant is kept for whoever mends it."""
        self.writes += 1
        if self.how == "tear" and self.writes == (1 if self.at == "start" else 2):
            if path == STATE:
                write(beside("whole"), text)
            write(path, text[: int(len(text) * self.share)])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, text)
        if self.writes == 1:
            self.hit("middle")


def next_fault(command):
    """The next one of the list; what only reads is spared where it says so."""
    told = loads(read(beside("faults.json"))) if os.path.exists(beside("faults.json")) else []
    if told:
        write(beside("faults.json"), dumps(told[1:]))
    return Fault(told[0] if told and (command in {"plan", "apply"} or told[0].get("reads")) else {})


# --- the configuration and the state ---


def variables():
    names = ["terraform.tfvars.json", *sorted(name for name in os.listdir() if name.endswith(".auto.tfvars.json"))]
    found = dict(DEFAULTS)
    for name in filter(os.path.exists, names):
        try:
            found |= loads(read(name))
        except (ValueError, TypeError):
            raise Broken("Missing value", name) from None
    if "replicas" not in found:
        raise Broken("No value for required variable", "replicas")
    for name in NUMBERS:
        if isinstance(found[name], bool) or not isinstance(found[name], int):
            raise Broken("Invalid value for input variable", name)
    return found


def wanted(told):
    """By address: the resource's name, its index, and its input."""
    inputs, found = {"database": "small", "web": told["release"], "worker": None}, {}
    for name, count in COUNTS.items():
        if count and told[count] < 0:
            raise Broken("Invalid count argument", name)
        for index in range(told[count]) if count else (None,):
            found[address(name, index)] = (name, index, inputs[name])
    return found


def outputs(there, told):
    return {
        "password": told["password"],
        "release": told["release"],
        "replicas": sum(name == "web" for name, *_ in there.values()),
        "workers": sum(name == "worker" for name, *_ in there.values()),
    }


def address(name, index):
    return f"{KIND}.{name}" if index is None else f"{KIND}.{name}[{index}]"


def state():
    """The state as it is, None when there is none."""
    text = read(STATE) if os.path.exists(STATE) else ""
    if not text.strip():
        return None
    try:
        return loads(text)
    except ValueError:
        raise Broken("Unsupported state file format", "The state file could not be parsed as JSON") from None


def instances(found):
    """By address: the resource's name, its index, and its attributes."""
    return {
        address(one["name"], instance.get("index_key")): (one["name"], instance.get("index_key"), instance["attributes"])
        for one in (found or {"resources": []})["resources"]
        for instance in one["instances"]
    }


def typed(value):
    return None if value is None else {"value": value, "type": "string"}


def stored(found, there, told):
    """The state ``found``, one serial later, with these instances and outputs."""
    resources = []
    for name in COUNTS:
        own = [(index, attributes) for owner, index, attributes in there.values() if owner == name]
        shown = [
            {"schema_version": 0, "attributes": attributes, **({} if index is None else {"index_key": index})}
            for index, attributes in sorted(own, key=lambda one: -1 if one[0] is None else one[0])
        ]
        if shown:
            resources.append({"mode": "managed", "type": KIND, "name": name, "provider": OWNER, "instances": shown})
    kinds = {"replicas": "number", "workers": "number"}
    told = {name: {"value": value, "type": kinds.get(name, "string")} for name, value in told.items()}
    return {**found, "serial": found["serial"] + 1, "outputs": told, "resources": resources}


# --- commands: each does its work step by step, and returns its exit code and what it prints ---


def show(words, fault):
    names = [word for word in words if not word.startswith("-")]
    if names:
        try:
            found = loads(read(names[0]))
            changes = found["changes"]
        except (OSError, ValueError, KeyError, TypeError):
            raise Broken("Failed to read the given file as a state or plan file", names[0]) from None
        shown = [{"address": at, "mode": "managed", "change": {"actions": change["actions"]}} for at, change in changes.items()]
        return 0, dumps({"format_version": "1.2", "resource_changes": shown})
    found = state()
    if found is None:
        return 0, dumps({"format_version": "1.0"})
    resources = [
        {"address": at, "mode": "managed", "type": KIND, "name": name, "values": plain(attributes)}
        for at, (name, _, attributes) in sorted(instances(found).items())
    ]
    values = {"outputs": found["outputs"], "root_module": {"resources": resources}}
    return 0, dumps({"format_version": "1.0", "values": values})


def plain(attributes):
    return {name: value["value"] if isinstance(value, dict) else value for name, value in attributes.items()}


def pull(words, fault):
    found = state()
    return 0, "" if found is None else dumps(found)


def planned():
    told = variables()
    found, goal = state(), wanted(told)
    there, changes = instances(found), {}
    for at in sorted({**there, **goal}):
        if at not in there:
            actions = ["create"]
        elif at not in goal:
            actions = ["delete"]
        else:
            actions = ["no-op"] if plain(there[at][2])["input"] == goal[at][2] else ["update"]
        changes[at] = {"actions": actions, "to": list(goal.get(at, ()))}
    before = {name: one["value"] for name, one in found["outputs"].items()} if found else {}
    after = outputs(goal, told)
    busy = before != after or any(change["actions"] != ["no-op"] for change in changes.values())
    made = {"changes": changes, "outputs": after, "busy": busy}
    return {**made, "serial": found["serial"] if found else 0, "lineage": found["lineage"] if found else ""}


def plan(words, fault):
    made = planned()
    out = next((word.removeprefix("-out=") for word in words if word.startswith("-out=")), "")
    if out:
        text = dumps(made)
        fault.write(out, text[: len(text) // 2])
        write(out, text)
    return 2 if made["busy"] and "-detailed-exitcode" in words else 0, line("Plan: ...")


def apply(words, fault):
    names = [word for word in words if not word.startswith("-")]
    if names:
        try:
            made = loads(read(names[0]))
            made["changes"]
        except (OSError, ValueError, KeyError, TypeError):
            raise Broken(f'Failed to load "{names[0]}" as a plan file', "") from None
    else:
        made = planned()
    found = state()
    if (made["serial"], made["lineage"]) != ((found["serial"], found["lineage"]) if found else (0, "")):
        raise Broken("Saved plan is stale", "")
    if made["busy"]:
        carry_out(made, found, fault)
    return 0, line("Apply complete!")


def carry_out(made, found, fault):
    """One change after the other, each in the state as soon as it is done; the outputs last."""
    if found:
        write(BACKUP, read(STATE))
    found = found or {"version": 4, "serial": 0, "lineage": os.urandom(8).hex(), "outputs": {}, "resources": []}
    there = instances(found)
    told = {name: one["value"] for name, one in found["outputs"].items()}
    begun = False
    for at, change in [*made["changes"].items(), ("", {})]:
        if change.get("actions") == ["no-op"]:
            continue
        if not at:
            told = made["outputs"]
        elif change["actions"] == ["delete"]:
            del there[at]
        else:
            name, index, given = change["to"]
            same = plain(there[at][2])["id"] if at in there else os.urandom(8).hex()
            there[at] = (name, index, {"id": same, "input": typed(given), "output": typed(given), "triggers_replace": None})
        found = stored(found, there, told)
        if not begun:
            note()
            begun = True
        fault.write(STATE, dumps(found))


def note():
    """That an apply changes something, and for which token."""
    pending = (loads(read(JOURNAL))["pending"] or {}) if os.path.exists(JOURNAL) else {}
    with open(beside("effects.log"), "a", encoding="utf-8") as log:
        log.write(pending.get("token", "nobody") + "\n")


# --- the program ---


def line(message):
    return dumps({"@level": "info", "@message": message, "type": "log"})


def complaint(command, error):
    """A line of JSON, or of a command without them a headline among the errors."""
    summary, detail = error.args
    if command in {"plan", "apply"}:
        told = {"severity": "error", "summary": summary, "detail": detail}
        print(dumps({"@level": "error", "@message": f"Error: {summary}", "diagnostic": told, "type": "diagnostic"}))
    elif command == "state":
        print(f"Failed to refresh state: {summary}: {detail}", file=sys.stderr)
    else:
        print(f"\nError: {summary}\n\n{detail}", file=sys.stderr)


def checked(words):
    """The command and its words. Raises Broken for what it does not know."""
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command == "state" and rest == ["pull"]:
        return "pull", []
    bad = [word for word in rest if word.startswith("-") and word not in FLAGS.get(command, ())]
    if command == "plan":
        bad = [word for word in bad if not word.startswith("-out=")] + [word for word in rest if not word.startswith("-")]
    if command not in FLAGS or bad:
        raise Broken("Error parsing command-line flags", " ".join(bad))
    if read("main.tf") != read(beside("known.tf")):
        raise Broken("Unsupported argument", "main.tf is not the configuration that is known here")
    return command, rest


def locked(command, busy):
    """Hold the state's lock while planning and applying, as long as this process lives."""
    if command not in {"plan", "apply"}:
        return
    file = open(STATE, "a+", encoding="utf-8")  # noqa: SIM115 - held until the end
    busy.append(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        state()
    except OSError:
        raise Broken("Error acquiring the state lock", "resource temporarily unavailable") from None
    except Broken as error:
        raise Broken("Error acquiring the state lock", f"Error message: {error}") from None
    write(LOCK, "{}")


def main(words):
    held = [open(beside("busy"), "a", encoding="utf-8")]  # noqa: SIM115 - whoever waits for us waits for its lock
    fcntl.flock(held[0], fcntl.LOCK_EX)
    command = words[0] if words else ""
    fault = next_fault(command)
    try:
        name, rest = checked(words)
        fault.hit("start")
        fresh = not os.path.exists(STATE)
        locked(name, held)
        try:
            status, printed = {"show": show, "pull": pull, "plan": plan, "apply": apply}[name](rest, fault)
        finally:
            if len(held) > 1 and os.path.exists(LOCK):
                os.unlink(LOCK)
            if fresh and os.path.exists(STATE) and not os.path.getsize(STATE):
                os.unlink(STATE)
        fault.hit("end")
    except Broken as error:
        complaint(command, error)
        return 1
    except KeyboardInterrupt:
        return 1
    if fault.how == "mute":
        printed = printed[: int(len(printed) * fault.share)]
    print(printed)
    return status


def run():
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
