//! Responses as the clients of others read them: every one on one connection, so that a wrong end shows in the next.

use std::io::Write;
use std::process::{Command, Output};
use std::time::Duration;

use durward_model::upstream::UpstreamProtocol;

use super::framing::{Case, HTTP2, Script, scripted};
use super::support::Setup;

const PYTHON: &str = r#"
import http.client, sys
port, cases = int(sys.argv[1]), sys.argv[2:]
conn = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
for case in cases:
    conn.request(case, "/")
    answer = conn.getresponse()
    print(answer.status, len(answer.read()))
"#;

const NODE: &str = r#"
const http = require('http');
const [port, ...cases] = process.argv.slice(2);
const agent = new http.Agent({keepAlive: true, maxSockets: 1});
function next() {
  const method = cases.shift();
  if (!method) return agent.destroy();
  const request = http.request({port, host: '127.0.0.1', method, agent, headers: {host: 'a'}}, answer => {
    let length = 0;
    answer.on('data', data => length += data.length);
    answer.on('end', () => { console.log(answer.statusCode, length); setImmediate(next); });
  });
  request.on('error', error => { console.log('error', error.message); process.exit(1); });
  request.end();
}
next();
"#;

const GO: &str = r#"package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, method := range os.Args[2:] {
		request, _ := http.NewRequest(method, "http://127.0.0.1:"+os.Args[1]+"/", nil)
		answer, err := client.Do(request)
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		content, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		fmt.Println(answer.StatusCode, len(content))
		if err != nil {
			fmt.Println("error", err)
		}
	}
}
"#;

/// The command that asks with these methods, one after the other on one connection, and prints status and length of each response.
fn command(program: &str, dir: &std::path::Path, port: u16, methods: &[&str]) -> Command {
    let mut command = Command::new(program);
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    match program {
        "python3" => command.arg(file("ask.py", PYTHON)),
        "node" => command.arg(file("ask.js", NODE)),
        "go" => command
            .env("GOCACHE", dir.join("cache"))
            .env("GO111MODULE", "off")
            .arg("run")
            .arg(file("ask.go", GO)),
        _ => {
            for (at, method) in methods.iter().enumerate() {
                if at > 0 {
                    command.arg("--next");
                }
                command.args([
                    "-sS",
                    "--max-time",
                    "60",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code} %{size_download}\n",
                ]);
                command.args(if *method == "HEAD" { &["-I"][..] } else { &[] });
                command.arg(format!("http://127.0.0.1:{port}/"));
            }
            return command;
        }
    };
    command.arg(port.to_string()).args(methods);
    command
}

// S1.38
#[tokio::test]
async fn other_clients_read_every_response_of_an_http2_upstream() {
    let cases: Vec<Case> =
        Case::all(&HTTP2).into_iter().filter(|case| case.method != "POST").collect();
    let methods: Vec<&str> = cases.iter().map(|case| case.method).collect();
    let expected: Vec<String> =
        cases.iter().map(|case| format!("{} {}", case.status, case.content().len())).collect();
    let script = Script::default();
    let origin = scripted(script.clone());
    let mut setup = Setup::to(origin.address());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    setup
        .run_within(Duration::from_secs(600), |rig| async move {
            for program in ["curl", "python3", "node", "go"] {
                let dir = durward_testkit::process::TempDir::new();
                let port = rig.listen().await;
                cases.iter().for_each(|case| script.push(Some(*case)));
                let mut command = command(program, dir.path(), port, &methods);

                let ran = tokio::task::spawn_blocking(move || command.output()).await.unwrap();

                let Ok(Output { stdout, stderr, .. }) = ran else {
                    let _ = writeln!(std::io::stderr(), "SKIPPED {program} (not installed)");
                    script.clear();
                    continue;
                };
                let read = String::from_utf8_lossy(&stdout);
                let stderr = String::from_utf8_lossy(&stderr);
                assert_eq!(read.lines().collect::<Vec<_>>(), expected, "{program}: {stderr}");
            }
        })
        .await;
}
