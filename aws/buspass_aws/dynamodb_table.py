"""The table that Buspass keeps its state in: keys, attributes, indexes. The one place that says so.

Owns the layout. Refuses to create it: whoever runs Buspass does that once, and the gateway has no permission to.

    python -m buspass_aws.dynamodb_table TABLE > table.json
    aws dynamodb create-table --cli-input-json file://table.json

A row is one item: partition and key of the port, the item itself as one map, and for every index that it is entered in
the shard and the sort. Each of the port's INDEXES is an index of the table, so a new one is added to the tables that
exist (`update-table`) before code that needs it is deployed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from buspass.ports.operations import INDEXES

PARTITION: Final = "pk"
KEY: Final = "sk"
ITEM: Final = "v"


def shard_of(index: str) -> str:
    """Name the attribute that holds an entry's shard."""
    return f"{index}_shard"


def sort_of(index: str) -> str:
    """Name the attribute that holds an entry's sort, and after it the row's partition and key."""
    return f"{index}_sort"


def definition(table: str) -> dict[str, Any]:
    """Give the body of CreateTable: on demand, restorable to any second once PITR is on, deletable only on purpose."""
    attributes = [PARTITION, KEY, *(name for index in INDEXES for name in (shard_of(index), sort_of(index)))]
    return {
        "TableName": table,
        "BillingMode": "PAY_PER_REQUEST",
        "DeletionProtectionEnabled": True,
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in attributes],
        "KeySchema": _keys(PARTITION, KEY),
        "GlobalSecondaryIndexes": [
            {
                "IndexName": index,
                "KeySchema": _keys(shard_of(index), sort_of(index)),
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
            for index in INDEXES
        ],
    }


def _keys(first: str, second: str) -> list[dict[str, str]]:
    return [{"AttributeName": first, "KeyType": "HASH"}, {"AttributeName": second, "KeyType": "RANGE"}]


def main(arguments: Sequence[str]) -> int:
    """Print the definition of the table that is named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m buspass_aws.dynamodb_table TABLE\n")
        return 2
    sys.stdout.write(json.dumps(definition(arguments[0]), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
