// A host in Go with its standard library: go run host.go FOLDER [COMMAND …]
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
)

const session = `{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 1, ` +
	`"clientInfo": {"name": "example", "version": "1.0.0"}, "grants": {"user-folder": %s}, "manifest": ` +
	`{"schema": "locara/v1", "name": "example", "publisher": "example", "version": "1.0.0", "modalities": ` +
	`["text-to-image"], "capabilities": {"models": ["pocket"], "fs": {"user-folder": "write"}}}}}` + "\n"
const request = `{"jsonrpc": "2.0", "id": %d, "method": "image.generate", "params": ` +
	`{"prompt": "a large yellow star in the center of a blue background", "channel": %s, "options": %s}}` + "\n"

type object = map[string]any

func in(value any, path ...string) any {
	for _, name := range path {
		members, _ := value.(object)
		value = members[name]
	}
	return value
}

func main() {
	command := append(os.Args[2:], "locara-sidecar", "serve")[:max(2, len(os.Args)-2)]
	sidecar := exec.Command(command[0], command[1:]...)
	stdin, _ := sidecar.StdinPipe()
	stdout, _ := sidecar.StdoutPipe()
	sidecar.Start() // if it cannot, Wait says so
	folder, _ := json.Marshal(os.Args[1])
	fmt.Fprintf(stdin, session, folder)
	messages := json.NewDecoder(stdout)
	for line := (object{}); messages.Decode(&line) == nil; line = (object{}) {
		step, data, id := in(line, "params", "message"), in(line, "error", "data"), in(line, "id")
		switch channel, number := in(line, "params", "channel"), in(step, "step"); {
		case channel == 1.0 && in(step, "phase") == "denoising" && number != 0.0:
			preview, _ := base64.StdEncoding.DecodeString(fmt.Sprint(in(step, "preview", "data")))
			fmt.Printf("step %v of %v, preview of %d bytes\n", number, in(step, "steps"), len(preview))
		case channel == 2.0 && number == 1.0:
			fmt.Fprintln(stdin, `{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 3}}`)
		case id == 1.0:
			fmt.Fprintf(stdin, request, 2, "1", `{"steps": 4, "output": {"path": "star.png"}}`)
		case id == 2.0:
			fmt.Println("saved", in(line, "result", "images").([]any)[0].(object)["path"])
			fmt.Fprintf(stdin, request, 3, "2", `{"steps": 200}`)
		case id == 3.0:
			fmt.Println("cancelled:", in(data, "kind"))
			fmt.Fprintf(stdin, request, 4, "null", `{"steps": 0}`)
		case id == 4.0:
			fmt.Println("error:", in(data, "kind"), "at", in(data, "path"))
			stdin.Close() // which ends the sidecar
		}
	}
	fmt.Fprintln(os.Stderr, "end:", sidecar.Wait())
}
