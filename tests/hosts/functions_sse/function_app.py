"""The function app around the streaming toy application, as azure/function_app.py is around the gateway."""

from sse import start

from buspass_azure.invocation import make_function_app

app = make_function_app(start)
