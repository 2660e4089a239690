//! An HTTP server without a framework that streams each request's body back to the client. Prints
//! its address.

#[path = "../http.rs"]
mod http;

use std::io::{self, Write};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio::time::sleep;

#[tokio::main]
async fn main() -> io::Result<()> {
    let server = http::create_server(async |request: Request<http::Body>| {
        Response::new(request.into_body().boxed())
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "http://{}/", listener.local_addr()?)?;
    loop {
        match listener.accept().await {
            Ok((connection, _)) => server.serve(connection),
            // For instance, no descriptor is left.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}
