//! `wasi:http/client` for plain HTTP: S3 servers and upstreams on loopback.
//!
//! wasmtime's own implementation would bring a TLS stack into the build.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use hyper::Uri;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use tokio::net::TcpStream;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::allowed::AllowedHosts;

pub struct PlainHttp {
    pub allowed_hosts: Arc<AllowedHosts>,
}

type Exchange = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sending = Box<dyn Future<Output = Result<(Response<WasiBody>, Exchange), Error>> + Send>;

impl WasiHttpHooks for PlainHttp {
    fn send_request(&mut self, request: Request<WasiBody>, _: Option<RequestOptions>, _: Exchange) -> Sending {
        if !self.allowed_hosts.contain(request.uri()) {
            // As Spin, which says so in its own log too.
            eprintln!("a request to {} is not in allowed_outbound_hosts", request.uri());
            return Box::new(async { Err(Error::HttpRequestDenied) });
        }
        Box::new(send(request))
    }
}

async fn send(mut request: Request<WasiBody>) -> Result<(Response<WasiBody>, Exchange), Error> {
    let authority = request.uri().authority().ok_or(Error::HttpRequestUriInvalid)?;
    let address = match authority.port() {
        Some(_) => authority.to_string(),
        None => format!("{authority}:80"),
    };
    // On the wire a request to an origin server names only the path.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| Error::HttpRequestUriInvalid)?;

    let stream = TcpStream::connect(address).await.map_err(Error::Connect)?;
    stream.set_nodelay(true).map_err(Error::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The connection must be driven while the answer is awaited and its body read.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let exchange = async move {
        match driver.await {
            Ok(result) => Ok(result?),
            Err(_) => Ok(()),
        }
    };
    let body = |body: hyper::body::Incoming| body.map_err(Error::from).boxed_unsync();
    Ok((response.map(body), Box::new(exchange)))
}
