"""The gateway on AWS, as the CDK has it; template.yaml in the repository's root is the same as SAM has it.

Owns the values (values.yaml, read by both) and the order. Every finding of cdk-nag is mended, or acknowledged with its
reason beside it. `-c bundle=DIR` names another bundle than `make bundle-lambda`'s.
"""

from __future__ import annotations

from pathlib import Path

import aws_cdk as cdk
import yaml
from cdk_nag import AwsSolutionsChecks
from cdk_stack import GatewayStack

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Synthesize. Raises where a value is missing."""
    app = cdk.App()
    values = yaml.safe_load((HERE / "values.yaml").read_text("utf-8"))
    bundle = (
        app.node.try_get_context("bundle") or HERE.parents[1] / "build" / "bundles" / f"lambda-{values['Architecture']}"
    )
    GatewayStack(app, "Buspass", values=values, bundle=Path(bundle))
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    app.synth()


if __name__ == "__main__":
    main()
