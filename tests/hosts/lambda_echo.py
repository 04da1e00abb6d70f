"""The Lambda handler around the toy application, as `buspass_aws.handler` is around the gateway."""

from echo import start

from buspass_aws.invocation import make_handler

handler = make_handler(start)
