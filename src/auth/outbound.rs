//! Fetches documents of issuers by the platform's outbound HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderMap, Request, StatusCode};

use super::oidc::{DOCUMENT_BYTES_MAX, Document, JwksSource};
use crate::platform::{Body, Platform};
use crate::store::Error;

/// How long an issuer may take to answer. A login waits for the answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches documents by [`Platform::send`].
pub struct Outbound(Arc<dyn Platform>);

impl Outbound {
    /// Fetches by this platform.
    pub fn new(platform: Arc<dyn Platform>) -> Self {
        Self(platform)
    }
}

#[async_trait]
impl JwksSource for Outbound {
    async fn fetch(&self, url: &str) -> Result<Document, Error> {
        let request = Request::get(url).header(ACCEPT, "application/json").body(Body::empty());
        let request = request.map_err(|error| Error::unavailable(format!("cannot fetch {url}")).because(error))?;
        let (head, body) = self.0.send(request, TIMEOUT).await?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Error::unavailable(format!("cannot fetch {url}: the server answered {}", head.status)));
        }
        let bytes = body.collect_up_to(DOCUMENT_BYTES_MAX).await?;
        Ok(Document { bytes, max_age_seconds: max_age_seconds(&head.headers) })
    }
}

fn max_age_seconds(headers: &HeaderMap) -> Option<u64> {
    let lines = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = lines.flat_map(|line| line.split(',')).map(str::trim);
    directives.find_map(|directive| directive.strip_prefix("max-age=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;
    use http::Response;

    use super::*;
    use crate::platform::SendError;

    /// Answers each path with a fixed response.
    struct Web;

    #[async_trait]
    impl Platform for Web {
        fn now_ms(&self) -> u64 {
            0
        }

        fn random(&self) -> [u8; 16] {
            [0; 16]
        }

        async fn send(&self, request: Request<Body>, _: Duration) -> Result<Response<Body>, SendError> {
            let response = Response::builder().header(CACHE_CONTROL, "public, max-age=600");
            Ok(match request.uri().path() {
                "/keys" => response.body("{}".into()),
                "/large" => response.body(vec![0; DOCUMENT_BYTES_MAX as usize + 1].into()),
                _ => response.status(302).body(Body::empty()),
            }
            .unwrap())
        }
    }

    #[test]
    fn a_document_and_how_long_it_keeps() {
        let source = Outbound::new(Arc::new(Web));
        let document = block_on(source.fetch("https://issuer.example/keys")).unwrap();
        assert_eq!((document.bytes.as_ref(), document.max_age_seconds), (b"{}".as_slice(), Some(600)));
        for url in ["https://issuer.example/large", "https://issuer.example/elsewhere", "not a URL"] {
            assert!(matches!(block_on(source.fetch(url)), Err(Error::Unavailable(_))), "{url}");
        }
    }
}
