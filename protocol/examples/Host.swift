// A host in Swift with Foundation: swiftc Host.swift && ./Host FOLDER [COMMAND …]; not compiled yet
import Foundation

typealias Object = [String: Any]
let prompt = "a large yellow star in the center of a blue background"
let (folder, given) = (CommandLine.arguments[1], Array(CommandLine.arguments.dropFirst(2)))
let sidecar = Process()
let (input, output) = (Pipe(), Pipe())
sidecar.executableURL = URL(fileURLWithPath: "/usr/bin/env")
sidecar.arguments = given.isEmpty ? ["locara-sidecar", "serve"] : given
sidecar.standardInput = input
sidecar.standardOutput = output
try sidecar.run()

func send(_ message: Object) throws {
    let whole = message.merging(["jsonrpc": "2.0"]) { _, new in new }
    try input.fileHandleForWriting.write(contentsOf: JSONSerialization.data(withJSONObject: whole) + Data([10]))
}
func generate(_ id: Int, channel: Int?, options: Object) throws {
    var params: Object = ["prompt": prompt, "options": options]
    params["channel"] = channel
    try send(["id": id, "method": "image.generate", "params": params])
}

let manifest: Object = [
    "schema": "locara/v1", "name": "example", "publisher": "example", "version": "1.0.0", "modalities": ["text-to-image"],
    "capabilities": ["models": ["pocket"], "fs": ["user-folder": "write"]],
]
let client = ["name": "example", "version": "1.0.0"]
let session: Object = ["protocolVersion": 1, "clientInfo": client, "manifest": manifest, "grants": ["user-folder": folder]]
try send(["id": 1, "method": "initialize", "params": session])
for try await line in output.fileHandleForReading.bytes.lines {
    let message = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? Object ?? [:]
    let frame = message["params"] as? Object
    let fault = (message["error"] as? Object)?["data"] as? Object
    if let step = frame?["message"] as? Object {
        guard step["phase"] as? String == "denoising", let number = step["step"] as? Int, number > 0 else { continue }
        if frame?["channel"] as? Int == 1 {
            let preview = Data(base64Encoded: (step["preview"] as? Object)?["data"] as? String ?? "") ?? Data()
            print("step \(number) of \(step["steps"] ?? 0), preview of \(preview.count) bytes")
        } else if number == 1 {
            try send(["method": "$/cancelRequest", "params": ["id": 3]])
        }
    }
    switch message["id"] as? Int {
    case 1: try generate(2, channel: 1, options: ["steps": 4, "output": ["path": "star.png"]])
    case 2:
        let images = (message["result"] as? Object)?["images"] as? [Object]
        print("saved \(images?.first?["path"] ?? "")")
        try generate(3, channel: 2, options: ["steps": 200])
    case 3:
        print("cancelled: \(fault?["kind"] ?? "")")
        try generate(4, channel: nil, options: ["steps": 0])
    case 4:
        print("error: \(fault?["kind"] ?? "") at \(fault?["path"] ?? "")")
        try input.fileHandleForWriting.close()  // this ends the sidecar
    default: break
    }
}
sidecar.waitUntilExit()
