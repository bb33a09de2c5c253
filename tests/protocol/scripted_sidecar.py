"""A child process for the client's tests: it gives scripted answers, and breaks the contract when asked to."""

import json
import os
import sys
import time


def send(*messages):
    for message in messages:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def frame(channel, index, **body):
    return {"method": "DiffusionStep", "params": {"channel": channel, "index": index, **body}}


def step(channel, index):
    return frame(channel, index, message={"step": index})


waiting = []
for line in sys.stdin:
    try:
        request = json.loads(line)
    except ValueError:
        send({"id": None, "error": {"code": -32700, "message": "no", "data": {"kind": "ParseError"}}})
        continue
    number, params = request.get("id"), request.get("params", {})
    channel = params.get("channel")
    done = {"id": number, "result": {"done": True}}
    match request["method"]:
        case "echo" | "initialize":
            send({"id": number, "result": {"params": params, "had": "params" in request}})
        case "fail":
            error = {"code": -32013, "message": "Full.", "data": {"kind": "QueueFull", "retryable": True}}
            send({"id": number, "error": error})
        case "stream":
            send(step(channel, 0), step(channel, 1), frame(channel, 2, end=True), done)
        case "hole":
            send(step(channel, 0), step(channel, 2), frame(channel, 3, end=True), done)
        case "miscount":
            send(step(channel, 0), frame(channel, 2, end=True), done)
        case "no-end":
            send(step(channel, 0), done)
        case "late":
            send(frame(channel, 0, end=True), done, step(channel, 1))
        case "after-end":
            send(frame(channel, 0, end=True), step(channel, 1), done)
        case "array":
            send({"id": number, "result": [1]})
        case "noise":
            sys.stdout.write("Loading weights: 100%\n")
            send(done)
        case "wait":
            waiting.append(number)
            if channel is not None:
                send(step(channel, 0))
        case "waiting":
            send({"id": number, "result": {"waiting": waiting}})
        case "$/cancelRequest":
            if params["id"] in waiting:
                waiting.remove(params["id"])
                send({"id": params["id"], "error": {"code": -32800, "message": "Cancelled.", "data": {}}})
        case "jobs.attach":
            answer = {"id": number, "result": {"jobId": params["jobId"], "state": "running"}}
            match params["jobId"]:
                case "ended":
                    send(step(channel, 0), frame(channel, 1, end=True), answer)
                case "goes on":
                    send(answer, step(channel, 0), step(channel, 1), frame(channel, 2, end=True))
                case "hole":
                    send(answer, step(channel, 1), frame(channel, 2, end=True))
                case "after the end":
                    send(answer, frame(channel, 0, end=True), step(channel, 1))
                case "waits":
                    send(answer)
                case _:
                    send({"id": number, "error": {"code": -32602, "message": "No.", "data": {}}})
        case "die":
            os._exit(3)
        case "stubborn":
            send(done)
            time.sleep(3600)
        case "shutdown":
            send({"id": number, "result": {}})
        case "exit":
            break
