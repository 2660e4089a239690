//! What clients get.

use super::*;

pub fn checks(suite: &Suite) {
    suite.both("document", |command| {
        let server = Server::start_either(command, 2)?;
        let first_line = format!("Master {} is running\n", server.program.pid());
        let stdout = server.program.stdout();
        ensure!(stdout.starts_with(&first_line), "{stdout:?}");
        served_client(&server)?;

        let old = server.workers();
        signal_to(old[0], Signal::SIGKILL)?;
        server.wait_for_death(old[0])?;
        let new = server.wait_for_workers(2)?;
        ensure!(
            !new.contains(&old[0]) && new.contains(&old[1]),
            "{old:?} then {new:?}"
        );
        served_client(&server)?;
        server.stop()
    });

    suite.both("methods_and_paths", |command| {
        let server = Server::start_either(command, 1)?;
        for (method, path) in [
            ("GET", "/"),
            ("GET", "/any/path?with=a#query"),
            ("HEAD", "/"),
            ("DELETE", "/x"),
            ("OPTIONS", "*"),
            ("PATCH", "/%20"),
        ] {
            let mut client = server.connect()?;
            client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"))?;
            let answer = client.answer_to(method)?;
            let mut expected = hello();
            if method == "HEAD" {
                expected.body.clear();
            }
            same(&format!("answer to {method} {path}"), &expected, &answer)?;
            // A body that belongs to no answer would be taken for the next one.
            same("the next answer", &hello(), &client.get()?)?;
        }
        for method in ["POST", "PUT"] {
            let mut client = server.connect()?;
            let headers = "HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
            client.send(format!("{method} / {headers}body"))?;
            same(&format!("answer to {method}"), &hello(), &client.answer()?)?;
            same("the next answer", &hello(), &client.get()?)?;
        }
        let mut client = server.connect()?;
        client.send("GET / HTTP/1.0\r\n\r\n")?;
        same("status for HTTP/1.0", &200, &client.answer()?.status)?;
        server.stop()
    });

    suite.both("bad_requests", |command| {
        let long = "x".repeat(20_000);
        let server = Server::start_either(command, 1)?;
        let with_header = |x: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {x}\r\n\r\n");
        refuses(&server, "garbage\r\n\r\n", 400)?;
        refuses(&server, "GET / HTTP/1.1\r\n\r\n", 400)?;
        refuses(&server, &with_header(&long), 431)?;
        // A request below the limit is answered.
        let mut client = server.connect()?;
        client.send(with_header(&long[..15_000]))?;
        same("answer", &hello(), &client.answer()?)?;
        server.stop()
    });

    // The worker is stopped meanwhile, so that it sees the end before it has answered.
    suite.both("half_closed_client", |command| {
        let server = Server::start_either(command, 1)?;
        let worker = server.workers()[0];
        let mut client = server.connect()?;
        signal_to(worker, Signal::SIGSTOP)?;
        client.send(GET.repeat(3))?;
        client.half_close()?;
        signal_to(worker, Signal::SIGCONT)?;
        for _ in 0..3 {
            same("body", "hello world\n", &client.answer()?.body)?;
        }
        server.stop()
    });

    // The handler does not read them, and the connection can be used after them.
    suite.both("unread_bodies", |command| {
        let server = Server::start_either(command, 1)?;
        let mut client = server.connect()?;
        for length in [4, 100_000, 3_000_000] {
            let headers = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n");
            client.send(format!("{headers}\r\n"))?;
            same("answer before the body", &hello(), &client.answer()?)?;
            client.send("x".repeat(length))?;
            // As curl sends an upload: the body comes only after the server has asked for it.
            client.send(format!("{headers}Expect: 100-continue\r\n\r\n"))?;
            same("status before the body", &100, &client.answer()?.status)?;
            client.send("x".repeat(length))?;
            same("answer", &hello(), &client.answer()?)?;
        }
        same("the next answer", &hello(), &client.get()?)?;
        server.stop()
    });

    // Not as in Node.
    suite.rust("refused_requests", |command| {
        let server = Server::start(command, 1)?;
        for version in ["1.0", "1.1"] {
            let two_hosts = format!("GET / HTTP/{version}\r\nHost: a\r\nHost: b\r\n\r\n");
            refuses(&server, &two_hosts, 400)?;
        }
        refuses(&server, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405)?;
        server.shut_down()
    });

    suite.rust("slow_headers", |command| {
        let server = Server::start(command, 1)?;
        let start = Instant::now();
        let mut slow = server.connect_many(300)?;
        for client in &mut slow {
            client.send("GET / HTTP/1.1\r\nHost: ")?;
        }
        for _ in 0..10 {
            served_client(&server)?;
        }
        for mut client in slow {
            let answer = client.answer();
            ensure!(answer.is_err(), "half a request got {answer:?}");
            ensure!(client.is_closed(), "the connection stays open");
        }
        // They have five seconds. Two seconds later, the connection would be closed anyway.
        takes_less_than(7, start)?;
        server.shut_down()
    });
}

fn refuses(server: &Server, request: &str, status: u16) -> Result<()> {
    let what = &request[..request.len().min(40)];
    let mut client = server.connect()?;
    client.send(request)?;
    let answer = client.answer().with_context(|| what.to_owned())?;
    same(what, &(status, true), &(answer.status, answer.closes))?;
    ensure!(client.is_closed(), "the connection stays open after {what}");
    Ok(())
}
