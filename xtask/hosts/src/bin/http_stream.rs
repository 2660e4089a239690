//! An HTTP server without a framework that streams each request's body back to the client. Prints
//! its address.

#[path = "../http.rs"]
mod http;

use std::io::{self, Write};

use http_body_util::BodyExt;
use hyper::{Request, Response};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> io::Result<()> {
    let server = http::create_server(async |request: Request<http::Body>| {
        Response::new(request.into_body().boxed())
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "http://{}/", listener.local_addr()?)?;
    loop {
        let (connection, _) = listener.accept().await?;
        server.serve(connection);
    }
}
