"""Bugs of who is who: S7, with certificates and secrets."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

CERTIFICATES, CONNECTION, HANDSHAKE = "wool.certificates", "wool.connection", "wool.protocol.handshake"

MUTANTS = (
    Mutant(
        name="expired-certificate-is-taken",
        broken="A certificate that has expired is as good as any.",
        caught_by="certificates_were_good",
        edits=(
            Edit(
                module=CERTIFICATES,
                old="        return _why([leaf, *others], at, SERVER, str(error), named=name)\n",
                new="        why = _why([leaf, *others], at, SERVER, str(error), named=name)\n"
                '        return None if why.why == "expired" else why\n',
            ),
            Edit(
                module=CERTIFICATES,
                old="        return _why([leaf, *others], at, CLIENT, str(error))\n",
                new="        why = _why([leaf, *others], at, CLIENT, str(error))\n"
                '        return None if why.why == "expired" else why\n',
            ),
        ),
    ),
    Mutant(
        name="certificate-before-its-time-is-taken",
        broken="A certificate that is not valid yet is as good as any.",
        caught_by="certificates_were_good",
        fault="not-yet-valid",
        edits=(
            Edit(
                module=CERTIFICATES,
                old="        return _why([leaf, *others], at, SERVER, str(error), named=name)\n",
                new="        why = _why([leaf, *others], at, SERVER, str(error), named=name)\n"
                '        return None if why.why == "not yet valid" else why\n',
            ),
            Edit(
                module=CERTIFICATES,
                old="        return _why([leaf, *others], at, CLIENT, str(error))\n",
                new="        why = _why([leaf, *others], at, CLIENT, str(error))\n"
                '        return None if why.why == "not yet valid" else why\n',
            ),
        ),
    ),
    Mutant(
        name="usage-not-asked",
        broken="A caller takes a worker that shows what is for callers: whoever may call may answer as well.",
        caught_by="certificates_were_good",
        fault="wrong-usage",
        edits=(
            Edit(
                module=CERTIFICATES,
                old="        return _why([leaf, *others], at, SERVER, str(error), named=name)\n",
                new="        why = _why([leaf, *others], at, SERVER, str(error), named=name)\n"
                '        return None if why.why == "usage" and _is_for(leaf, name) else why\n',
            ),
        ),
    ),
    Mutant(
        name="identity-not-asked",
        broken="A worker that names the identities of its callers takes whatever the authority has signed.",
        caught_by="certificates_were_good",
        edits=(
            Edit(
                module=CERTIFICATES,
                old="    if names and not set(names) & set(_names(leaf)):\n",
                new="    if names and not _names(leaf):\n",
            ),
        ),
    ),
    Mutant(
        name="handshake-handed-on",
        broken="A caller that shows no certificate does not look where the worker says that it listens.",
        caught_by="nobody_is_in_between",
        edits=(
            Edit(
                module=CONNECTION,
                old="            if not secure or transport.one_way or peer.one_way:\n",
                new="            if not expects and (not secure or transport.one_way or peer.one_way):\n",
            ),
        ),
    ),
    Mutant(
        name="body-parsed-before-authentication",
        broken="A worker takes the session for open when it has said its challenge, and what comes then for frames.",
        caught_by="nothing_before_the_handshake",
        edits=(
            Edit(
                module=HANDSHAKE,
                old="        self._caller_nonce = caller_nonce\n",
                new="        self._caller_nonce = caller_nonce\n"
                '        self.peer = CallerWords(uid="", pool=b"", payload_bytes=1 << 20, credit_bytes=1 << 20)\n',
            ),
        ),
    ),
    Mutant(
        name="another-version-is-taken",
        broken="A worker that speaks the next version of the protocol is as good as any.",
        caught_by="versions_are_the_same",
        edits=(
            Edit(
                module=HANDSHAKE,
                old="    if protocol != PROTOCOL_VERSION:\n",
                new="    if protocol not in (PROTOCOL_VERSION, PROTOCOL_VERSION + 1):\n",
            ),
        ),
    ),
    Mutant(
        name="another-version-is-not-told",
        broken="Who finds a worker of another version says that it cannot be understood, and not why.",
        caught_by="another_version_is_told",
        edits=(
            Edit(
                module=HANDSHAKE,
                old="speaks protocol version {protocol}, this side {PROTOCOL_VERSION}: install the same wool",
                new="says what cannot be understood",
            ),
        ),
    ),
    Mutant(
        name="secret-compared-after-parsing",
        broken="Both ends read first what the other says of itself, and compare secrets when it is believed already.",
        caught_by="secrets_are_the_same",
        edits=(
            Edit(
                module=HANDSHAKE,
                old="        if len(challenge.nonce) != NONCE_BYTES or not hmac.compare_digest(\n",
                new="        if len(challenge.nonce) != NONCE_BYTES or self.done and not hmac.compare_digest(\n",
            ),
            Edit(
                module=HANDSHAKE,
                old="        if not hmac.compare_digest(response.proof,",
                new="        if self.peer and not hmac.compare_digest(response.proof,",
            ),
        ),
    ),
)
