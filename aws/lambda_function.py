"""The entry file that Lambda looks for by default (`lambda_function.handler`). Refuses to hold anything else."""

from buspass_aws.handler import handler

__all__ = ["handler"]
