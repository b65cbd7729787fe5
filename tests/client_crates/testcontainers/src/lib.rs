//! The part of the crate `testcontainers` that the tests of oci-client use, with a registry of
//! `eyot::testing` in place of a container. The name and version of the image have no effect.

use std::convert::Infallible;

use eyot::testing::{Fault, TestRegistry, serve};
use http::{Method, StatusCode};

/// An image, which is always eyot.
pub struct GenericImage;

/// An image with settings, which are not supported.
pub struct ContainerRequest<I>(I);

/// A running registry, which ends when the value is dropped.
pub struct ContainerAsync<I> {
    registry: TestRegistry,
    _image: I,
}

impl GenericImage {
    /// Takes the place of an image.
    pub fn new(_name: &str, _tag: &str) -> Self {
        Self
    }

    /// Does nothing: eyot serves when the call that starts it returns.
    #[must_use]
    pub fn with_wait_for(self, _condition: core::WaitFor) -> Self {
        self
    }
}

impl<I> ContainerAsync<I> {
    /// The port of the registry on this machine.
    ///
    /// # Errors
    /// Never.
    pub async fn get_host_port_ipv4(&self, _inside: u16) -> Result<u16, Infallible> {
        Ok(self.registry.address().port())
    }
}

/// Settings of a container.
pub trait ImageExt: Sized {
    /// The image.
    type Image;

    /// Adds a setting.
    ///
    /// # Panics
    /// Always.
    fn with_env_var(self, name: &str, _value: &str) -> ContainerRequest<Self::Image> {
        panic!("eyot starts without the setting {name}: run only tests of registries without logins");
    }

    /// Adds a folder.
    ///
    /// # Panics
    /// Always.
    fn with_mount(self, _mount: core::Mount) -> ContainerRequest<Self::Image> {
        panic!("eyot starts without folders: run only tests of registries without logins");
    }
}

impl ImageExt for GenericImage {
    type Image = Self;
}

impl<I> ImageExt for ContainerRequest<I> {
    type Image = I;
}

/// Conditions and folders of containers.
pub mod core {
    /// When a container is ready.
    pub struct WaitFor;

    impl WaitFor {
        /// Ready when the container writes a text.
        pub fn message_on_stderr(_text: &str) -> Self {
            Self
        }
    }

    /// A folder of a container.
    pub struct Mount;

    impl Mount {
        /// A folder of this machine.
        pub fn bind_mount(_from: &str, _to: &str) -> Self {
            Self
        }
    }
}

/// Starting.
pub mod runners {
    use super::*;

    /// Starts a registry.
    pub trait AsyncRunner<I> {
        /// Starts a registry, and returns when the registry serves.
        fn start(self) -> impl Future<Output = Result<ContainerAsync<I>, Infallible>>;
    }

    impl AsyncRunner<Self> for GenericImage {
        async fn start(self) -> Result<ContainerAsync<Self>, Infallible> {
            // oci-client is built without a provider of its own, and makes its client after this call.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let registry = serve();
            // The image is that of distribution, which has no endpoint of referrers: a test expects that
            // oci-client falls back to the tags of referrers.
            registry.fail(Method::GET, "/referrers/", usize::MAX, Fault::status(StatusCode::NOT_FOUND, None));
            Ok(ContainerAsync { registry, _image: self })
        }
    }

    impl<I> AsyncRunner<I> for ContainerRequest<I> {
        async fn start(self) -> Result<ContainerAsync<I>, Infallible> {
            Ok(ContainerAsync { registry: serve(), _image: self.0 })
        }
    }
}
