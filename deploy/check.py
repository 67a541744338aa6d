"""Check that cert-manager takes `cert-manager/certificates.yaml`, by types made from its own definitions.

Kubernetes has no schema for what cert-manager adds to it. Whatever the types do not know, a field that is misspelt say,
they would drop in silence: so what they have read must be all that is in the file. ``nox -s deploy`` runs this.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from cloudcoil.models.cert_manager import v1

CERTIFICATES = Path(__file__).parent / "cert-manager" / "certificates.yaml"


def check(document: dict[str, Any]) -> None:
    """Raise `ValueError` if cert-manager would not take ``document`` as it is."""
    if document["apiVersion"] != "cert-manager.io/v1" or not hasattr(v1, document["kind"]):
        raise ValueError(f"cert-manager has no {document['kind']} of {document['apiVersion']}")
    read = getattr(v1, document["kind"]).model_validate(document)
    known = read.model_dump(by_alias=True, exclude_unset=True, mode="json")
    if known != document:
        raise ValueError(f"cert-manager knows less of {document['kind']} {document['metadata']['name']}: {known}")


def main() -> None:
    """Check all documents, and that a misspelt field would be found."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(CERTIFICATES.read_text()))
    for document in documents:
        check(document)
        sys.stdout.write(f"cert-manager takes {document['kind']} {document['metadata']['name']}\n")
    for document in documents:
        for wrong in ({**document, "spec": {**document["spec"], "dnsName": "x"}}, {**document, "spec": {"isCA": 1}}):
            try:
                check(wrong)
            except ValueError:
                continue
            sys.exit(f"what is wrong with {wrong} was not found")


if __name__ == "__main__":
    main()
