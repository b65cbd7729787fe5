//! Where `wkg` finds WebAssembly packages: as OCI artifacts in this registry. The format is that of
//! wasm-pkg-tools, "registry metadata" (a well-known URI, RFC 8615).

use async_trait::async_trait;
use serde_json::json;

use super::{Call, Endpoint, Operation, operation};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::reply::Reply;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: "GET",
    path: "/.well-known/wasm-pkg/registry.json",
    parse: |_| operation(GetPackageRegistry),
}];

struct GetPackageRegistry;

#[async_trait]
impl Operation for GetPackageRegistry {
    fn permission(&self) -> Permission<'_> {
        Permission::None
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, _: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        // Without a host in the document, the packages are on the host that the document came from.
        Ok(Reply::json(&json!({ "preferredProtocol": "oci", "oci": {} })))
    }
}
