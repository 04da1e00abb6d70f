"""Stands before the AWS stand-in, which takes any key, and asks IAM first: the function's own policies, for each request.

Owns which action on which resource a request is, by the services' own tables of actions (Service Authorization Reference),
for those requests that the gateway makes; another one is an error. Refuses to know what a policy says.
"""

import json
from urllib.parse import parse_qs

import httpx
from iam_evaluation import Asked, allowed
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

HOP = {"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "content-encoding"}
S3 = {"GET": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}


class Guard:
    """One role's way to the stand-in. `identity`: its policies; `own`: resources' policies, by their ARN.

    `arns` knows a resource by what requests call it: a table's, a secret's or an alias's name, a key's id.
    """

    def __init__(self, behind, principal, identity, own, arns):
        self.behind, self.principal, self.identity, self.own, self.arns = behind, principal, identity, own, arns
        self.seen, self.denied = [], []
        self.client = httpx.AsyncClient(timeout=60)
        self.app = Starlette(routes=[Route("/{path:path}", self.pass_on, methods=["GET", "PUT", "POST", "DELETE"])])

    def judge(self, action, resource):
        asked = Asked(self.principal, action, resource, {"aws:SecureTransport": "true"})
        owner = resource.partition("/")[0] if action.startswith("s3:") else resource
        return allowed(asked, self.identity, self.own.get(owner))

    def what(self, request, body):
        """The action and the resource that a request asks for."""
        service = request.headers["authorization"].split("/")[3]
        if service == "s3":
            path = request.scope["raw_path"].decode().lstrip("/")
            bucket, slash, key = path.partition("/")
            if slash and key:
                return S3[request.method], f"arn:aws:s3:::{bucket}/{key}"
            assert "list-type" in parse_qs(request.url.query), path
            return "s3:ListBucket", f"arn:aws:s3:::{bucket}"
        action = f"{service}:{request.headers['x-amz-target'].rpartition('.')[2]}"
        asked = json.loads(body)
        name = asked.get("TableName") or asked.get("KeyId") or asked.get("SecretId")
        arn = name if name.startswith("arn:") else self.arns[name]
        return action, f"{arn}/index/{asked['IndexName']}" if "IndexName" in asked else arn

    async def pass_on(self, request):
        body = await request.body()
        action, resource = self.what(request, body)
        self.seen.append((action, resource))
        if not self.judge(action, resource):
            self.denied.append((action, resource))
            return denial(action, resource)
        headers = {name: value for name, value in request.headers.items() if name not in HOP}
        path = request.scope["raw_path"].decode() + (f"?{request.url.query}" if request.url.query else "")
        answer = await self.client.request(request.method, self.behind + path, headers=headers, content=body)
        if action == "s3:GetObject" and answer.status_code == 404:
            # S3 hides what is not there from who may not list the bucket.
            bucket = resource.partition("/")[0]
            self.seen.append(("s3:ListBucket", bucket))
            if not self.judge("s3:ListBucket", bucket):
                self.denied.append(("s3:ListBucket", bucket))
                return denial(action, resource)
        kept = {name: value for name, value in answer.headers.items() if name not in HOP}
        return Response(answer.content, answer.status_code, kept)


def denial(action, resource):
    """What the services answer."""
    if action.startswith("s3:"):
        text = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        return Response(text, 403, media_type="application/xml")
    said = f"not authorized to perform: {action} on resource: {resource}"
    document = {"__type": "com.amazon.coral.service#AccessDeniedException", "Message": said, "message": said}
    return Response(json.dumps(document), 400, media_type="application/x-amz-json-1.0")
