#!/usr/bin/env python3
"""Drives a running server with Python gRPC and nothing of ours but reflection: client.py HOST:PORT AGENT [IDENTITY].

Without an identity (a directory with authority.pem, certificate.pem, key.pem) in plaintext."""
import pathlib
import sys
import time

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status


class Control:
    """The operator's service, built from what the server says of itself."""

    def __init__(self, channel):
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self.service = self.pool.FindServiceByName("pitwall.v1.ControlService")
        self.channel = channel

    def call(self, name, request, timeout=20):
        method = self.service.methods_by_name[name]
        into = message_factory.GetMessageClass(method.input_type)
        out = message_factory.GetMessageClass(method.output_type)
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        stub = kind(
            f"/{self.service.full_name}/{name}",
            request_serializer=into.SerializeToString,
            response_deserializer=out.FromString,
        )
        return stub(json_format.ParseDict(request, into()), timeout=timeout)


def connect(address, identity):
    if identity is None:
        return grpc.insecure_channel(address)
    read = lambda name: (pathlib.Path(identity) / name).read_bytes()
    credentials = grpc.ssl_channel_credentials(read("authority.pem"), read("key.pem"), read("certificate.pem"))
    return grpc.secure_channel(address, credentials)


def refused_without_certificate(address, identity):
    authority = (pathlib.Path(identity) / "authority.pem").read_bytes()
    stub = health_pb2_grpc.HealthStub(grpc.secure_channel(address, grpc.ssl_channel_credentials(authority)))
    # Whether it serves is told to anybody, what it serves to nobody.
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status == health_pb2.HealthCheckResponse.SERVING
    try:
        next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20))
        raise AssertionError("a call without a certificate was answered")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
        info = error_details_pb2.ErrorInfo()
        details = rpc_status.from_call(error).details
        assert any(d.Unpack(info) and info.reason == "CERTIFICATE_MISSING" for d in details), details


def main(address, agent, identity=None):
    channel = connect(address, identity)
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert health.status == health_pb2.HealthCheckResponse.SERVING, health

    database = ProtoReflectionDescriptorDatabase(channel)
    assert "pitwall.v1.ControlService" in database.get_services()
    control = Control(channel)

    situation = control.call("GetSituation", {}).situation
    assert agent in [a.name for a in situation.agents], situation

    watch = control.call("Watch", {}, timeout=20)
    first = next(watch)
    assert first.WhichOneof("body") == "snapshot", first

    issued = control.call("IssueCommand", {"agent": agent, "spec": {"directive": {"text": "from Python"}}}).command
    # The watch tells of it by itself.
    for answer in watch:
        if any(command.id == issued.id for command in answer.change.commands):
            break
    watch.cancel()

    for _ in range(200):
        listed = control.call("ListCommands", {"id": issued.id}).commands
        if json_format.MessageToDict(listed[0])["state"] == "COMMAND_STATE_SUCCEEDED":
            break
        time.sleep(0.1)
    else:
        raise AssertionError(f"not delivered: {listed[0]}")

    try:
        control.call("IssueCommand", {"agent": "nobody", "spec": {"unthrottle": {}}})
        raise AssertionError("an unknown agent was accepted")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        info = error_details_pb2.ErrorInfo()
        details = rpc_status.from_call(error).details
        assert any(d.Unpack(info) and info.reason == "AGENT_UNKNOWN" for d in details), details
    if identity is not None:
        refused_without_certificate(address, identity)
    print("python: all calls answered as expected")


if __name__ == "__main__":
    main(*sys.argv[1:])
