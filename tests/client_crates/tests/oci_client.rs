//! oci-client against a registry of `eyot::testing`, with faults on request.

use eyot::testing::{Fault, TestRegistry, serve, serve_with_login};
use futures_util::StreamExt as _;
use http::{Method, StatusCode};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{
    ImageIndexEntry, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageIndex, OciImageManifest,
    OciManifest,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

const ANYONE: &RegistryAuth = &RegistryAuth::Anonymous;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn client() -> Client {
    // Fails in all tests but the first, because the provider is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
    Client::try_from(config).expect("a client")
}

fn image(registry: &TestRegistry, name: &str) -> Reference {
    format!("{}/{name}", registry.host()).parse().expect("the name of an image")
}

/// Two layers: a few bytes, and more bytes than oci-client sends in one chunk.
fn layers() -> Vec<ImageLayer> {
    let large: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    vec![ImageLayer::oci_v1(b"small".to_vec(), None), ImageLayer::oci_v1(large, None)]
}

async fn push(client: &Client, image: &Reference, auth: &RegistryAuth) -> Result<(), OciDistributionError> {
    client.push(image, &layers(), Config::oci_v1(b"{}".to_vec(), None), auth, None).await.map(drop)
}

fn descriptor(layer: &ImageLayer) -> OciDescriptor {
    let size = layer.data.len() as i64;
    OciDescriptor { digest: layer.sha256_digest(), size, media_type: LAYER.to_owned(), ..OciDescriptor::default() }
}

/// The requests that the registry has received, without the queries and the names of uploads.
fn requests(registry: &TestRegistry) -> Vec<String> {
    let line = |recorded: eyot::testing::Recorded| {
        let path = recorded.target.split('?').next().unwrap_or_default();
        let path = path.split_once("/uploads/").map_or(path.to_owned(), |(before, _)| format!("{before}/uploads/"));
        format!("{} {path}", recorded.method)
    };
    registry.requests().into_iter().map(line).collect()
}

#[tokio::test]
async fn an_image_goes_there_and_back() {
    let (registry, client) = (serve(), client());
    for tag in ["v1", "v2", "v3"] {
        push(&client, &image(&registry, &format!("team/deep/app:{tag}")), ANYONE).await.expect("a push");
    }
    let first = image(&registry, "team/deep/app:v1");
    let pulled = client.pull(&first, ANYONE, vec![LAYER]).await.expect("a pull");
    let data = |layers: &[ImageLayer]| layers.iter().map(|layer| layer.data.clone()).collect::<Vec<_>>();
    let mut data_pulled = data(&pulled.layers);
    data_pulled.sort_by_key(|data| data.len());
    assert!(data_pulled == data(&layers()), "the layers have other bytes");
    let digest = client.fetch_manifest_digest(&first, ANYONE).await.expect("a digest");
    assert_eq!(pulled.digest, Some(digest));

    let page = client.list_tags(&first, ANYONE, Some(2), Some("v1")).await.expect("tags");
    assert_eq!((page.name.as_str(), page.tags), ("team/deep/app", vec!["v2".to_owned(), "v3".to_owned()]));
    let catalog = client.catalog(&first, ANYONE, None, None).await.expect("a catalog");
    assert_eq!(catalog.repositories, ["team/deep/app"]);
    assert_eq!(registry.tags("team/deep/app"), ["v1", "v2", "v3"]);
    // The large layer came in two chunks, once for each push.
    let chunks = requests(&registry).iter().filter(|line| line.starts_with("PATCH")).count();
    assert_eq!(chunks, 3 * 4, "{:#?}", registry.requests());
}

#[tokio::test]
async fn a_login_gives_a_token() {
    let (registry, client) = (serve_with_login("ada", "engine of 1843"), client());
    let image = image(&registry, "team/app:v1");
    let wrong = RegistryAuth::Basic("ada".into(), "wrong".into());
    push(&client, &image, &wrong).await.expect_err("a wrong password");
    assert!(registry.manifest("team/app", "v1").is_none());

    let client = self::client();
    let right = RegistryAuth::Basic("ada".into(), "engine of 1843".into());
    push(&client, &image, &right).await.expect("a push");
    client.pull(&image, &right, vec![LAYER]).await.expect("a pull");
    assert!(requests(&registry).iter().any(|line| line == "GET /v2/_eyot/token"), "{:#?}", registry.requests());
    let mut pushes = registry.requests().into_iter().filter(|request| request.method == Method::PUT);
    assert!(pushes.all(|request| request.has_authorization && request.status == Some(StatusCode::CREATED)));
}

#[tokio::test]
async fn an_index_leads_to_the_image_of_the_platform() {
    let (registry, client) = (serve(), client());
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let image = image(&registry, &format!("app:{architecture}"));
        push(&client, &image, ANYONE).await.expect("a push");
        let (bytes, digest) =
            client.pull_manifest_raw(&image, ANYONE, &[OCI_IMAGE_MEDIA_TYPE]).await.expect("a manifest");
        let platform = oci_client::manifest::Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            os_version: None,
            os_features: None,
            variant: None,
            features: None,
        };
        entries.push(ImageIndexEntry {
            media_type: OCI_IMAGE_MEDIA_TYPE.into(),
            digest,
            size: bytes.len() as i64,
            platform: Some(platform),
            annotations: None,
            artifact_type: None,
        });
    }
    let index = OciImageIndex {
        schema_version: 2,
        media_type: Some(OCI_IMAGE_INDEX_MEDIA_TYPE.into()),
        manifests: entries,
        artifact_type: None,
        annotations: None,
    };
    let all = image(&registry, "app:all");
    client.push_manifest_list(&all, ANYONE, index).await.expect("a push of an index");
    let config = ClientConfig {
        protocol: ClientProtocol::Http,
        platform_resolver: Some(Box::new(oci_client::client::linux_amd64_resolver)),
        ..ClientConfig::default()
    };
    let pulled = Client::try_from(config).expect("a client").pull(&all, ANYONE, vec![LAYER]).await.expect("a pull");
    assert_eq!(pulled.layers.len(), 2);
}

#[tokio::test]
async fn referrers_are_listed_by_their_type() {
    let (registry, client) = (serve(), client());
    let subject_image = image(&registry, "app:v1");
    push(&client, &subject_image, ANYONE).await.expect("a push");
    let (bytes, digest) =
        client.pull_manifest_raw(&subject_image, ANYONE, &[OCI_IMAGE_MEDIA_TYPE]).await.expect("a manifest");
    let subject = OciDescriptor {
        media_type: OCI_IMAGE_MEDIA_TYPE.into(),
        digest: digest.clone(),
        size: bytes.len() as i64,
        ..OciDescriptor::default()
    };
    for kind in ["application/vnd.test.sig", "application/vnd.test.sbom"] {
        let empty = Config::new(b"{}".to_vec(), "application/vnd.oci.empty.v1+json".into(), None);
        let mut manifest = OciImageManifest::build(&layers()[..1], &empty, None);
        (manifest.artifact_type, manifest.subject) = (Some(kind.into()), Some(subject.clone()));
        let name = image(&registry, &format!("app:{}", kind.rsplit('.').next().unwrap()));
        client.push(&name, &layers()[..1], empty, ANYONE, Some(manifest)).await.expect("a push of a referrer");
    }
    let by_digest = subject_image.clone_with_digest(digest);
    let all = client.pull_referrers(&by_digest, None).await.expect("referrers");
    assert_eq!(all.manifests.len(), 2, "{all:?}");
    let some = client.pull_referrers(&by_digest, Some("application/vnd.test.sig")).await.expect("referrers");
    let kinds: Vec<_> = some.manifests.iter().map(|entry| entry.artifact_type.as_deref()).collect();
    assert_eq!(kinds, [Some("application/vnd.test.sig")]);
}

#[tokio::test]
async fn a_mount_and_a_range_move_few_bytes() {
    let (registry, client) = (serve(), client());
    let (from, to, layers) = (image(&registry, "from:v1"), image(&registry, "to:v1"), layers());
    push(&client, &from, ANYONE).await.expect("a push");
    registry.forget_requests();
    let layer = descriptor(&layers[1]);
    client.mount_blob(&to, &from, &layer.digest).await.expect("a mount");
    // oci-client asks first whether the registry has logins.
    assert_eq!(requests(&registry), ["GET /v2/", "POST /v2/to/blobs/uploads/"]);
    assert_eq!(registry.blob("to", &layer.digest).map(|blob| blob.len()), Some(layers[1].data.len()));

    let part = client.pull_blob_stream_partial(&to, &layer, 4_999_000, Some(500)).await.expect("a range");
    let BlobResponse::Partial(mut stream) = part else { panic!("the whole blob came") };
    let mut bytes = Vec::new();
    while let Some(piece) = stream.stream.next().await {
        bytes.extend_from_slice(&piece.expect("bytes"));
    }
    assert_eq!(bytes, layers[1].data[4_999_000..4_999_500]);
}

#[tokio::test]
async fn too_many_requests_reach_the_caller_and_the_next_try_succeeds() {
    let (registry, client) = (serve(), client());
    let image = image(&registry, "app:v1");
    registry.fail(Method::PUT, "/manifests/", 1, Fault::status(StatusCode::TOO_MANY_REQUESTS, Some(0)));
    let error = push(&client, &image, ANYONE).await.expect_err("429");
    assert!(format!("{error:?}").to_uppercase().contains("TOOMANYREQUESTS"), "{error:?}");
    assert_eq!(registry.tags("app"), Vec::<String>::new());
    push(&client, &image, ANYONE).await.expect("the second push");
    assert_eq!(registry.tags("app"), ["v1"]);
}

#[tokio::test]
async fn damaged_layers_are_not_taken_for_whole_layers() {
    let (registry, client, layers) = (serve(), client(), layers());
    let image = image(&registry, "app:v1");
    push(&client, &image, ANYONE).await.expect("a push");
    let layer = descriptor(&layers[1]);
    for fault in [Fault::CutBody { after_bytes: 1_000_000 }, Fault::WrongBytes, Fault::NoAnswer] {
        registry.fail(Method::GET, "/blobs/", 1, fault.clone());
        let mut bytes = Vec::new();
        let pulled = client.pull_blob(&image, &layer, &mut bytes).await;
        assert!(pulled.is_err(), "oci-client took {} bytes as the layer after {fault:?}", bytes.len());
    }
    let mut bytes = Vec::new();
    client.pull_blob(&image, &layer, &mut bytes).await.expect("a pull without a fault");
    assert!(bytes == layers[1].data, "the layer has other bytes");
}

#[tokio::test]
async fn a_push_whose_answer_is_lost_can_be_repeated() {
    let (registry, client) = (serve(), client());
    let image = image(&registry, "app:v1");
    for part in ["/blobs/uploads/", "/manifests/"] {
        registry.fail(Method::PUT, part, 1, Fault::NoAnswer);
        push(&client, &image, ANYONE).await.expect_err("no answer");
    }
    // The request was carried out, so the tag is there although the client saw a failure.
    assert_eq!(registry.tags("app"), ["v1"]);
    push(&client, &image, ANYONE).await.expect("the third push");
    let manifest = client.pull_manifest(&image, ANYONE).await.expect("a manifest").0;
    assert!(matches!(manifest, OciManifest::Image(image) if image.layers.len() == 2));
}
