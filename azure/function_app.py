"""The entry file of the function app (Python's v2 programming model). Refuses to hold anything else."""

from buspass.http import start
from buspass_azure.invocation import make_function_app

app = make_function_app(start)
