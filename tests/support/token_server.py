#!/usr/bin/env python3
"""A token server for the registry of distribution, for tests/clients/mirror.

usage: token_server.py PORT KEY.pem CERTIFICATE.pem USER PASSWORD

Serves GET /token?service=S&scope=repository:NAME:ACTIONS on 127.0.0.1. The user gets every action,
and others get no token. A token is a JWT signed by RS256 with the certificate in its header, as in
the registry's documentation ("Token Authentication Implementation"). Needs the program openssl.
"""

import base64
import json
import ssl
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

port, key, certificate, user, password = sys.argv[1:]
CHAIN = [base64.b64encode(ssl.PEM_cert_to_DER_cert(open(certificate).read())).decode()]
LOGIN = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(service, scopes):
    access = []
    for scope in scopes:
        kind, name, actions = scope.split(":")
        access.append({"type": kind, "name": name, "actions": actions.split(",")})
    now = int(time.time())
    claims = {"iss": "tests", "sub": user, "aud": service, "iat": now, "nbf": now - 60, "exp": now + 300, "jti": str(now), "access": access}
    signed = b".".join(encode(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "RS256", "x5c": CHAIN}, claims))
    signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=signed, capture_output=True, check=True)
    return (signed + b"." + encode(signature.stdout)).decode()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query)
        is_allowed = self.headers.get("Authorization") == LOGIN
        body = json.dumps({"token": token(query["service"][0], query.get("scope", []))} if is_allowed else {}).encode()
        self.send_response(200 if is_allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
