#!/usr/bin/env python3
"""Reads a ledger as docs/ledger.md draws it, with nothing of the program that wrote it.

    python3 read_ledger.py DIR KEY      DIR: the ledger's folder; KEY: the pinned key's line, or a file that holds it

Checks the checkpoint's signature through every rotation of the key, all hash tiles, the form of every entry and
attachment field by field, the inclusion of every entry, every session, plan, rotation and quorum signature, and the
counts. It does not recompute epsilon, nor the words of a privacy statement. Prints one line of JSON and exits with 0, or says what does not hold and exits
with 1. Standard library, and `cryptography` for Ed25519 (RFC 8032).
"""

import base64
import hashlib
import json
import pathlib
import re
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

WIDTH = 256


class Broken(Exception):
    """What does not hold, and at which entry."""


def require(holds, what):
    if not holds:
        raise Broken(what)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def verify(key, signature, message, what):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise Broken(f"{what}: the signature does not verify") from None


# Keys and notes (C2SP signed-note, tlog-checkpoint).


def parse_key(line):
    name, key_id, encoded = line.split("+", 2)
    raw = base64.b64decode(encoded, validate=True)
    require(len(raw) == 33 and raw[0] == 1, "the key is no Ed25519 key")
    require(re.fullmatch(r"[!-~]{1,255}", name) and "+" not in name, "the key's name is no origin")
    require(sha256(name.encode(), b"\n", raw)[:4].hex() == key_id, "the key id is not that of name and key")
    return name, raw[1:]


def split_note(note):
    text, signatures = note.decode().rsplit("\n\n", 1)
    require(signatures.endswith("\n"), "the note does not end with a line feed")
    lines = []
    for line in signatures[:-1].split("\n"):
        dash, name, encoded = line.split(" ")
        require(dash == "\u2014", "a line is no signature")
        raw = base64.b64decode(encoded, validate=True)
        lines.append((name, raw[:4], raw[4:]))
    return text + "\n", lines


def parse_checkpoint(text):
    origin, size, root, end = text.split("\n")
    require(end == "" and str(int(size)) == size, "the checkpoint's text is malformed")
    root = base64.b64decode(root, validate=True)
    require(len(root) == 32, "the root is no SHA-256")
    return origin, int(size), root


def open_note(note, key):
    name, public = key
    text, lines = split_note(note)
    key_id = sha256(name.encode(), b"\n", b"\x01", public)[:4]
    for signer, signer_id, signature in lines:
        if (signer, signer_id) == (name, key_id):
            verify(public, signature, text.encode(), "checkpoint")
            return text
    raise Broken("the checkpoint is not signed by the key in force")


# The tree (RFC 6962), and its tiles (C2SP tlog-tiles).


def leaf_hash(leaf):
    return sha256(b"\x00", leaf)


def node_hash(left, right):
    return sha256(b"\x01", left, right)


def split(n):
    return 1 << ((n - 1).bit_length() - 1)


def tile_path(level, index, width):
    groups = [f"{index % 1000:03}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03}")
    return f"tile/{level}/{'/'.join(groups)}" + ("" if width == WIDTH else f".p/{width}")


def tiles(level, n_rows):
    """The path and width of every tile of a level that has so many rows."""
    for index in range((n_rows + WIDTH - 1) // WIDTH):
        width = min(WIDTH, n_rows - index * WIDTH)
        yield tile_path(level, index, width), width


class Tree:
    """All hashes of complete subtrees: levels[k][i] covers leaves i * 2^k and following."""

    def __init__(self, leaves):
        self.size, self.levels = len(leaves), [leaves]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            self.levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])

    def range(self, low, high):
        n = high - low
        if n & (n - 1) == 0:
            level = n.bit_length() - 1
            return self.levels[level][low >> level]
        middle = low + split(n)
        return node_hash(self.range(low, middle), self.range(middle, high))

    def root(self):
        return self.range(0, self.size) if self.size else sha256()

    def inclusion(self, index):
        """The audit path of a leaf (RFC 6962, section 2.1.1)."""
        proof, low, high = [], 0, self.size
        while high - low > 1:
            middle = low + split(high - low)
            if index < middle:
                proof.append(self.range(middle, high))
                high = middle
            else:
                proof.append(self.range(low, middle))
                low = middle
        return proof[::-1]


def verify_inclusion(leaf, index, size, root, proof):
    """RFC 9162, section 2.1.3.2."""
    node, last, digest = index, size - 1, leaf
    for sibling in proof:
        require(last != 0, "the audit path is too long")
        if node & 1 or node == last:
            digest = node_hash(sibling, digest)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest = node_hash(digest, sibling)
        node, last = node >> 1, last >> 1
    require(last == 0 and digest == root, "the audit path does not lead to the root")


# Canonical encoding: each field a u32 little-endian length and its bytes.


def canonical(*fields):
    return b"".join(struct.pack("<I", len(field)) + field for field in fields)


def u8(value):
    return struct.pack("<B", value)


def u32(value):
    return struct.pack("<I", value)


def u64(value):
    return struct.pack("<Q", value)


def statement(kind, session, round_, plan, roster, sharers, position, body):
    return b"".join([
        b"eranos/secagg/v1", u8(kind), session, u64(round_), plan, roster, sharers,
        struct.pack("<H", position), u32(len(body)), body,
    ])


# The text of entries.


class Lines:
    def __init__(self, raw, domain):
        text = raw.decode("utf-8")
        require(text.endswith("\n") and "\r" not in text, "a text does not end with a line feed")
        self.lines = text[:-1].split("\n")
        require(self.lines.pop(0) == domain, "a text has another domain than expected")

    def next(self, name):
        require(self.lines, f"{name} is missing")
        line = self.lines.pop(0)
        require(line.startswith(name + ": "), f"{line!r} where {name} belongs")
        return line[len(name) + 2:]

    def many(self, name):
        found = []
        while self.lines and self.lines[0].startswith(name + ": "):
            found.append(self.next(name))
        return found

    def end(self):
        require(not self.lines, f"lines follow the last field: {self.lines[:1]}")


def integer(text):
    require(re.fullmatch(r"0|[1-9][0-9]*", text), f"{text!r} is no integer")
    return int(text)


def hexadecimal(text, n_bytes):
    require(re.fullmatch(r"[0-9a-f]*", text) and (n_bytes is None or len(text) == 2 * n_bytes), f"{text!r} is no hex")
    return bytes.fromhex(text)


def number(text):
    require(re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", text), f"{text!r} is no number")
    return float(text)


def epsilon(text, has_noise):
    require((text == "infinite") != has_noise, "an epsilon is infinite without noise and in no other case")
    return number(text) if has_noise else float("inf")


def optional(text, parse):
    return None if text == "-" else parse(text)


def read_mechanism(lines):
    raw = hexadecimal(lines.next("mechanism"), None)
    unit = lines.next("unit")
    require(unit in ("record", "client"), "the unit is neither")
    fields = {"raw": raw, "unit": unit, "relation": lines.next("relation"), "noise": lines.next("noise")}
    clip = ["grid", "shift"] if unit == "record" else ["scaled-clip"]
    fields["l2-clip-norm"] = number(lines.next("l2-clip-norm"))
    for name in clip:
        fields[name] = integer(lines.next(name))
    if lines.lines and lines.lines[0].startswith("model-share: "):
        read_groups(lines, fields)
    for name in ["n-parameters", "d-pad", "sensitivity-squared"]:
        fields[name] = integer(lines.next(name))
    variance = lines.next("noise-variance")
    fields["has_noise"] = fields["noise"] != "none"
    require((variance != "-") == fields["has_noise"], "a variance without noise, or noise without one")
    require(not fields["has_noise"] or variance.endswith("/1024"), "the variance is not in 1024ths")
    for name in ["bits", "u-min", "max-colluders", "n-max"]:
        fields[name] = integer(lines.next(name))
    if unit == "record":
        numerator, denominator = lines.next("sampling-probability").split("/")
        require(0 < integer(numerator) <= integer(denominator), "the probability is none")
        for name in ["expected-lot", "records-per-round", "record-bound"]:
            fields[name] = integer(lines.next(name))
        if lines.lines and lines.lines[0].startswith("local-steps: "):
            fields["local-steps"] = integer(lines.next("local-steps"))
            for name in ["client-learning-rate", "update-clip-norm"]:
                fields[name] = number(lines.next(name))
    else:
        for name in ["local-steps", "batch-size"]:
            fields[name] = integer(lines.next(name))
        fields["client-learning-rate"] = number(lines.next("client-learning-rate"))
    fields["max-attempts"] = integer(lines.next("max-attempts"))
    fields["delta"] = number(lines.next("delta"))
    return fields


def share(text):
    require(text.endswith("/1000000"), f"{text!r} is no share")
    return integer(text.removesuffix("/1000000"))


def read_groups(lines, fields):
    """What travels beside the gradient or update."""
    fields["model-share"] = share(lines.next("model-share"))
    for name in ["loss", "accuracy", "clipped"]:
        for line in lines.many(name):
            require(name not in fields, f"{name} twice")
            bound, of = line.split(" ")
            fields[name] = (number(bound), share(of))
    if lines.lines and lines.lines[0].startswith("l2-clip-norm-min: "):
        least, most = (number(lines.next(f"l2-clip-norm-{end}")) for end in ["min", "max"])
        require(least <= fields["l2-clip-norm"] <= most, "the clip is out of its bounds")
        fields["adaptive"] = (least, most)


def same_mechanism(a, b):
    """An adaptive clip is each attempt's own."""
    own = {"raw", "l2-clip-norm"} if "adaptive" in a else set()
    return all(a.get(name) == b.get(name) for name in a.keys() | b.keys() if name not in own)


MEMBERS = ["client-enrolled", "certificate-renewed", "client-revoked"]
HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


def words(text):
    require(1 <= len(text.encode()) <= 512 and text == text.strip(" ") and not HIDDEN.search(text), "no line of words")
    return text


def date(text):
    require(re.fullmatch(r"\d{4}-\d\d-\d\d", text), "the date is none")
    return text


class Ledger:
    def __init__(self, folder):
        self.folder = folder
        self.key = self.log = None
        self.keys, self.tasks, self.pseudonyms, self.carried = [], {}, {}, {}
        self.n_released = self.n_signatures = self.n_attachments = 0
        self.members, self.commitments, self.silent = {kind: 0 for kind in MEMBERS}, set(), False

    def take(self, index, leaf):
        domain = leaf.split(b"\n", 1)[0].decode()
        kind = domain.removeprefix("eranos/ledger/v1 ")
        require((index == 0) == (kind == "log-opened"), "a log begins with log-opened and has it once")
        handlers = {
            "log-opened": self.log_opened, "task-opened": self.task_opened, "attempt": self.attempt,
            "log-restored": self.log_restored, "key-rotated": self.key_rotated, "task-stated": self.task_stated, "budget-set": self.budget_set,
            "model-published": self.model_published, "privacy-stated": self.privacy_stated,
        }
        handlers |= {member: lambda _, lines, member=member: self.member(member, lines) for member in MEMBERS}
        require(kind in handlers, f"unknown domain {domain!r}")
        lines = Lines(leaf, domain)
        handlers[kind](index, lines)
        lines.end()

    def log_opened(self, _, lines):
        self.log = {name: lines.next(name) for name in ["origin", "trust-domain", "ledger-key", "date"]}
        date(self.log["date"])
        self.key = parse_key(self.log["ledger-key"])
        require(self.key[0] == self.log["origin"], "the key is another log's")
        self.keys.append((0, self.key))

    def log_restored(self, index, lines):
        task, dated = lines.next("task"), date(lines.next("date"))
        old, size = parse_key(lines.next("old-key")), integer(lines.next("old-size"))
        root = hexadecimal(lines.next("old-root"), 32)
        before, lost = (integer(lines.next(f"attempts-{name}")) for name in ["before", "lost"])
        signature = hexadecimal(lines.next("old-signature"), 64)
        require(index == 1 and old[0] != self.key[0] and dated >= self.log["date"], "a restoration in another place")
        message = canonical(
            b"eranos/ledger/log-restored/v1", self.key[0].encode(), self.key[1], task.encode(), dated.encode(),
            old[0].encode(), old[1], u64(size), root, u64(before), u64(lost),
        )
        verify(old[1], signature, message, "restoration")
        self.carried[task] = before + lost

    def key_rotated(self, index, lines):
        old, new = parse_key(lines.next("old-key")), parse_key(lines.next("new-key"))
        signatures = [hexadecimal(lines.next(name), 64) for name in ["old-signature", "new-signature"]]
        require(old == self.key and new != old and new[0] == old[0], "the rotation does not start from the key in force")
        message = canonical(b"eranos/ledger/key-rotation/v1", old[0].encode(), u64(index), old[1], new[1])
        for key, signature in zip([old, new], signatures):
            verify(key[1], signature, message, "rotation")
        self.key = new
        self.keys.append((index + 1, new))

    def task_opened(self, _, lines):
        name, nonce = lines.next("task"), hexadecimal(lines.next("nonce"), 32)
        session = hexadecimal(lines.next("session"), 32)
        derived = canonical(
            b"eranos/session/v1", self.log["trust-domain"].encode(), self.log["origin"].encode(), name.encode(), nonce,
        )
        require(sha256(derived) == session, "the session does not follow from the nonce")
        model, data, weights = (hexadecimal(lines.next(field), 32) for field in ["model", "data", "weights"])
        mechanism = read_mechanism(lines)
        require(lines.next("accountant") == "renyi, integer orders", "another accountant")
        require(lines.next("orders") == "2-256,512,1024", "other orders")
        epsilon(lines.next("budget-epsilon"), mechanism["has_noise"])
        require(number(lines.next("budget-delta")) == mechanism["delta"], "the budget is at another delta")
        require(name not in self.tasks, "the task was opened before")
        self.tasks[name] = {
            "nonce": nonce, "session": session, "model": model, "data": data, "weights": weights, "mechanism": mechanism,
            "rounds": 0, "stated": None, "budget": None, "date": self.log["date"], "released": None, "published": [],
            "promised": None,
        }

    def task(self, lines):
        name = lines.next("task")
        require(name in self.tasks, "the task was not opened")
        require(hexadecimal(lines.next("session"), 32) == self.tasks[name]["session"], "another session than the task's")
        return self.tasks[name]

    def dated(self, task, lines):
        found = date(lines.next("date"))
        require(found >= task["date"], "an earlier date than before")
        task["date"] = found

    def task_stated(self, _, lines):
        task = self.task(lines)
        self.dated(task, lines)
        stated = [hexadecimal(lines.next("executable"), 32), lines.next("version")]
        require(re.fullmatch(r"[0-9A-Za-z.+-]{1,64}", stated[1]), "the version is none")
        stated += [optional(lines.next(name), words) for name in ["product", "curator", "purpose", "contact"]]
        require(stated != task["stated"], "says again what was said")
        task["stated"] = stated

    def budget_set(self, _, lines):
        task = self.task(lines)
        most = optional(lines.next("client-epsilon-max"), number)
        attempts = integer(lines.next("client-attempts-max"))
        limit = task["mechanism"]["max-attempts"]
        require(attempts <= limit and (most is not None or attempts == limit), "another number of attempts")
        require((most, attempts) != task["budget"], "says again what was said")
        task["budget"] = (most, attempts)

    def member(self, kind, lines):
        commitment = hexadecimal(lines.next("commitment"), 32)
        require(commitment not in self.commitments, "a commitment stands twice")
        self.commitments.add(commitment)
        enrolled, renewed, revoked = (self.members[member] for member in MEMBERS)
        require(enrolled or (kind == MEMBERS[0] and not self.silent), "nobody was enrolled before")
        require(kind != MEMBERS[2] or revoked < enrolled + renewed, "more revocations than certificates")
        self.members[kind] += 1

    def model_published(self, _, lines):
        task = self.task(lines)
        found = (integer(lines.next("round")), hexadecimal(lines.next("weights"), 32))
        require(found == (task["released"], task["weights"]), "not the model that the last released round left")
        file = hexadecimal(lines.next("file"), 32)
        require(file not in task["published"], "says again what was said")
        task["published"].append(file)

    def privacy_stated(self, _, lines):
        task = self.task(lines)
        self.dated(task, lines)
        attempts = integer(lines.next("attempts"))
        require(attempts == task["rounds"] != task["promised"], "another number of attempts, or stated before")
        task["promised"] = attempts
        integer(lines.next("wording"))
        hexadecimal(lines.next("statement"), 32)

    def attempt(self, _, lines):
        name = lines.next("task")
        require(name in self.tasks, "the task was not opened")
        task = self.tasks[name]
        session = hexadecimal(lines.next("session"), 32)
        require(session == task["session"], "another session than the task's")
        round_, attempts = integer(lines.next("round")), integer(lines.next("attempts"))
        task["rounds"] += 1
        require(round_ == attempts == task["rounds"], "a round is missing or repeated")
        planned = task["mechanism"]["max-attempts"]
        require(attempts + self.carried.get(name, 0) <= planned, "more attempts than are planned for")
        outcome = lines.next("outcome")
        require(outcome in ("released", "aborted-before-reveal", "aborted-after-reveal"), "unknown outcome")
        plan, plan_signature = hexadecimal(lines.next("plan"), 32), hexadecimal(lines.next("plan-signature"), 64)
        program = [hexadecimal(lines.next("executable"), 32), lines.next("version")]
        require(re.fullmatch(r"[0-9A-Za-z.+-]{1,64}", program[1]), "the version is none")
        require(task["stated"] is None or program == task["stated"][:2], "another program than was stated")
        mechanism = read_mechanism(lines)
        require(same_mechanism(mechanism, task["mechanism"]), "another mechanism than the task's")
        graph = ["complete", "sparse"].index(lines.next("graph"))
        slot, timeout = integer(lines.next("ready-slot-ms")), integer(lines.next("phase-timeout-ms"))
        seed = hexadecimal(lines.next("rotation-seed"), 32)
        before = hexadecimal(lines.next("weights-before"), 32)
        require(before == task["weights"], "the round began with other weights than the last release left")
        after = optional(lines.next("weights-after"), lambda text: hexadecimal(text, 32))
        require((after is not None) == (outcome == "released"), "new weights without a release, or a release without them")
        terms = canonical(
            b"eranos/plan-terms/v1", self.log["trust-domain"].encode(), self.log["origin"].encode(), name.encode(),
            task["nonce"], u64(round_), task["model"], task["data"], before, mechanism["raw"], u8(graph), seed, u32(slot),
            u32(timeout),
        )
        require(sha256(terms) == plan, "the plan has other terms")
        nothing = bytes(32)
        signed = statement(0x01, session, round_, plan, nothing, nothing, 0xFFFF, terms)
        verify(self.key[1], plan_signature, signed, "plan")
        self.roster(lines, name, task, outcome, session, round_, plan)
        for view in ["epsilon-coordinator", "epsilon-outsider"]:
            epsilon(lines.next(view), mechanism["has_noise"])
        if after is not None:
            task["weights"], task["released"], task["published"] = after, round_, []
            self.n_released += 1

    def roster(self, lines, name, task, outcome, session, round_, plan):
        mechanism = task["mechanism"]
        n1 = optional(lines.next("n1"), integer)
        quorum = optional(lines.next("quorum"), integer)
        require(quorum == (None if n1 is None else (n1 + mechanism["max-colluders"]) // 2 + 1), "another quorum")
        roster = optional(lines.next("roster"), lambda text: hexadecimal(text, 32))
        sharers = optional(lines.next("sharers"), lambda text: hexadecimal(text, 32))
        n_survivors = optional(lines.next("survivors"), integer)
        bitmap = optional(lines.next("bitmap"), lambda text: hexadecimal(text, None))
        named = optional(lines.next("attachment"), lambda text: hexadecimal(text, 32))
        require((n1 is None) == (roster is None) == (named is None), "a roster without its size or participants")
        require((n_survivors is None) == (bitmap is None), "survivors without their bitmap")
        require(outcome == "aborted-before-reveal" or bitmap is not None, "a reveal without survivors")
        if n1 is None:
            return
        enrolled = self.members[MEMBERS[0]]
        self.silent |= enrolled == 0
        require(self.silent or n1 <= enrolled, "a roster of more clients than were enrolled")
        path = self.folder / "attachment" / named.hex()[:2] / named.hex()
        require(path.is_file(), f"attachment {named.hex()} is missing")
        raw = path.read_bytes()
        require(sha256(raw) == named, f"attachment {named.hex()} is not what its name says")
        self.n_attachments += 1
        attachment = Lines(raw, "eranos/ledger/v1 participation")
        keys = []
        for position, line in enumerate(attachment.many("participant")):
            found, key, count = line.split(" ")
            require(integer(found) == position, "participants are out of order")
            key = hexadecimal(key, 32)
            owner, before = self.pseudonyms.get(key, (name, 0))
            require(owner == name and integer(count) == before + 1, "a pseudonym's attempts have a gap")
            require(task["budget"] is None or before < task["budget"][1], "a client beyond its budget")
            self.pseudonyms[key] = (name, before + 1)
            keys.append(key)
        require(len(keys) == n1 == len(set(keys)), "the roster has another size, or a pseudonym twice")
        require(mechanism["u-min"] <= n1 <= mechanism["n-max"], "the roster's size is out of bounds")
        survives = []
        if bitmap is not None:
            require(len(bitmap) == (n1 + 7) // 8, "the bitmap has another length")
            survives = [position for position in range(8 * len(bitmap)) if bitmap[position // 8] >> position % 8 & 1]
            require(len(survives) == n_survivors and all(position < n1 for position in survives), "another bitmap")
        last, n_valid = -1, 0
        for line in attachment.many("signature"):
            position, signature = line.split(" ")
            position = integer(position)
            require(last < position < n1 and position in survives, "a signature is out of order or by no survivor")
            last = position
            message = statement(0x85, session, round_, plan, roster, sharers, position, bitmap)
            verify(keys[position], hexadecimal(signature, 64), message, f"statement of position {position}")
            n_valid += 1
        attachment.end()
        self.n_signatures += n_valid
        if outcome != "aborted-before-reveal":
            require(n_valid >= quorum and n_survivors >= max(quorum, mechanism["u-min"]), "no quorum")


def read(folder, pinned):
    note = (folder / "checkpoint").read_bytes()
    origin, size, root = parse_checkpoint(split_note(note)[0])
    seen = {"checkpoint"}

    def file(path):
        seen.add(path)
        require((folder / path).is_file(), f"{path} is missing")
        return (folder / path).read_bytes()

    leaves = []
    for path, width in tiles("entries", size):
        raw, place = file(path), 0
        for _ in range(width):
            (length,) = struct.unpack_from(">H", raw, place)
            place += 2 + length
            require(place <= len(raw), f"{path} ends early")
            leaves.append(raw[place - length:place])
        require(place == len(raw), f"{path} goes on after its last entry")
    hashes = [leaf_hash(leaf) for leaf in leaves]
    tree = Tree(hashes)
    for level in range(6):
        rows = tree.levels[8 * level][:size >> 8 * level] if 8 * level < len(tree.levels) else []
        for place, (path, width) in enumerate(tiles(level, len(rows))):
            expected = b"".join(rows[place * WIDTH:place * WIDTH + width])
            require(file(path) == expected, f"{path} does not follow from the entries")
    require(tree.root() == root, "the entries do not lead to the checkpoint's root")

    ledger = Ledger(folder)
    for index, leaf in enumerate(leaves):
        try:
            ledger.take(index, leaf)
            verify_inclusion(hashes[index], index, size, root, tree.inclusion(index))
        except (Broken, ValueError, IndexError) as error:
            raise Broken(f"entry {index}: {error}") from None
    require(any(key == pinned for _, key in ledger.keys) or not leaves, "the pinned key was never this log's")
    in_force = [key for first, key in ledger.keys if first <= size][-1] if leaves else pinned
    open_note(note, in_force)
    require(origin == pinned[0], "the checkpoint is another log's")

    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            partial = re.fullmatch(r"(tile/.*)\.p/\d+", name)
            superseded = partial and any(known.startswith(partial[1]) for known in seen)
            require(name in seen or name.startswith("attachment/") or superseded, f"{name} is no file of this log")
    n_files = sum(path.is_file() for path in (folder / "attachment").rglob("*"))
    require(n_files == ledger.n_attachments, "there are attachments that no entry names")
    return {
        "origin": origin, "size": size, "root": root.hex(), "keys": len(ledger.keys), "released": ledger.n_released,
        "pseudonyms": len(ledger.pseudonyms), "statements": ledger.n_signatures, "attachments": ledger.n_attachments,
        "members": sum(ledger.members.values()),
    }


def main():
    folder, key = pathlib.Path(sys.argv[1]), sys.argv[2]
    if pathlib.Path(key).is_file():
        key = pathlib.Path(key).read_text().rstrip("\n")
    try:
        print(json.dumps(read(folder, parse_key(key))))
    except (Broken, ValueError, struct.error) as error:
        print(f"does not hold: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
