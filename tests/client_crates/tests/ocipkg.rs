//! ocipkg, a client over another HTTP library than oci-client, against a registry of `eyot::testing`.

use eyot::testing::{Fault, TestRegistry, serve, serve_with_login};
use http::{Method, StatusCode};
use ocipkg::distribution::{Client, MediaType};
use ocipkg::oci_spec::image::{Descriptor, ImageManifest, ImageManifestBuilder, SCHEMA_VERSION};
use ocipkg::{Name, Reference};

fn client(registry: &TestRegistry) -> Client {
    // ocipkg logs in only at hosts with a name.
    let url = format!("http://localhost:{}", registry.address().port());
    Client::new_with_auth(url.parse().expect("a URL"), Name::new("team/app").expect("a name"), Default::default())
        .expect("a client")
}

/// Pushes a manifest with one layer under each tag.
fn push(client: &mut Client, tags: &[&str]) -> Result<(ImageManifest, Vec<u8>), Box<dyn std::error::Error>> {
    let layer = b"the bytes of a layer".to_vec();
    let (config_digest, _) = client.push_blob(b"{}")?;
    let (layer_digest, _) = client.push_blob(&layer)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(Descriptor::new(MediaType::ImageConfig, 2, config_digest))
        .layers(vec![Descriptor::new(MediaType::ImageLayer, layer.len() as u64, layer_digest)])
        .build()?;
    for tag in tags {
        client.push_manifest(&Reference::new(tag)?, &manifest)?;
    }
    Ok((manifest, layer))
}

#[test]
fn an_image_goes_there_and_back() {
    let registry = serve();
    let mut client = client(&registry);
    let (manifest, layer) = push(&mut client, &["tag2", "tag1", "tag3"]).expect("a push");
    assert_eq!(client.get_tags().expect("tags"), ["tag1", "tag2", "tag3"]);
    let pulled = client.get_manifest(&Reference::new("tag1").unwrap()).expect("a manifest");
    assert_eq!(pulled, manifest);
    assert_eq!(client.get_blob(pulled.layers()[0].digest()).expect("a layer"), layer);
    assert_eq!(registry.tags("team/app"), ["tag1", "tag2", "tag3"]);
}

#[test]
fn a_login_gives_a_token() {
    let registry = serve_with_login("ada", "engine of 1843");
    client(&registry).get_tags().expect_err("a list without a login");
    assert!(registry.requests().iter().all(|request| request.status == Some(StatusCode::UNAUTHORIZED)));
    registry.forget_requests();
    // The user may see that the repository does not exist. ocipkg reads only challenges of one action,
    // so ocipkg cannot log in to push: its parser takes the comma in `pull,push` for the end of the scope.
    let mut client = client(&registry);
    client.add_basic_auth("localhost", "ada", "engine of 1843");
    client.get_tags().expect_err("no such repository");
    let last = registry.requests().pop().expect("a request");
    assert_eq!((last.has_authorization, last.status), (true, Some(StatusCode::NOT_FOUND)));
}

#[test]
fn failures_reach_the_caller() {
    let registry = serve();
    let mut client = client(&registry);
    let (manifest, layer) = push(&mut client, &["v1"]).expect("a push");
    let digest = manifest.layers()[0].digest().clone();
    registry.fail(Method::GET, "/blobs/", 1, Fault::status(StatusCode::TOO_MANY_REQUESTS, Some(1)));
    client.get_blob(&digest).expect_err("429");
    let last = registry.requests().pop().expect("a request");
    assert_eq!(last.status, Some(StatusCode::TOO_MANY_REQUESTS));
    registry.fail(Method::GET, "/blobs/", 1, Fault::CutBody { after_bytes: 5 });
    client.get_blob(&digest).expect_err("a body that breaks off");
    assert_eq!(client.get_blob(&digest).expect("a layer"), layer);
}
