//! Many names on one address, each with a certificate of its own, which are renewed while it serves.
//!
//! ```text
//! cargo run --release --example sni_hosting -- 127.0.0.1:3443 --ca /tmp/hosting.pem
//! cargo run --example tls_client -- 127.0.0.1:3443 --ca /tmp/hosting.pem --name www.example.test
//! kill -HUP ...    # renews all certificates; who is connected stays so
//! ```
//!
//! `www.example.test` has a certificate from the beginning, and `*.pages.example.test` one for all names of that
//! kind. Another name of `example.test` gets one when somebody asks for it: the handshake waits, while a thread
//! of a pool issues it, and the loop goes on. All other names are refused, and so are clients that say none:
//! there is no certificate to show to them. A real server would have its certificates issued by somebody whom
//! everybody trusts; here it is an authority made on the fly, whose certificate `--ca FILE` writes for clients.
//!
//! A client is told where it is, and at which renewal of the certificate; then its bytes come back.

mod common;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::error::Error;
use std::fs;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use common::Options;
use common::certificates::Authority;
use usockets::{
    JobResult, Loop, LoopHandle, LoopRef, ServerNameAnswer, Socket, SocketContext, TicketKeys,
    TlsServerConfig, TlsServerOptions, UsError, WorkerPool,
};

/// Names that get a certificate when they are asked for.
const ON_DEMAND: &str = ".example.test";

/// So many of them: whoever is there can ask for any.
const NAMES_MAX: usize = 100;

/// The data of a name, which its sockets find.
struct Site {
    pattern: String,
    renewal: u64,
}

/// State of the context.
struct Hosting {
    mint: Mint,
    pool: WorkerPool,
    handle: LoopHandle,
    /// All names, with how often each was renewed.
    names: BTreeMap<String, u64>,
    connections: u64,
    refused: u64,
}

type Server = SocketContext<true, Hosting>;

fn main() -> ExitCode {
    common::run("127.0.0.1:3443", serve)
}

fn serve(address: &str) -> Result<(), Failure> {
    let options = Options::parse(&["--ca"])?;
    let mint = Mint::new()?;
    if let Some(path) = options.get("--ca") {
        fs::write(path, mint.authority.certificate())
            .map_err(|error| format!("{path}: {error}"))?;
    }
    let event_loop = Loop::<()>::new()?;
    let hosting = Hosting {
        mint,
        pool: WorkerPool::builder().threads(1).name("mint").build()?,
        handle: event_loop.handle(),
        names: ["www.example.test", "*.pages.example.test"].map(|name| (name.to_owned(), 0)).into(),
        connections: 0,
        refused: 0,
    };
    let server = server(&event_loop, hosting)?;
    server.with_state(|hosting| hosting.renew_all(&server))??;

    let listener = server.listen(address)?;
    println!("listening on {}", listener.local_addr()?);
    let renewed = server.clone();
    let _renewal = event_loop.on_signal(libc::SIGHUP, move |_event_loop, _signal| {
        let result = renewed.with_state(|hosting| hosting.renew_all(&renewed));
        match result.expect("no callback is lent the state") {
            Ok(()) => println!("all certificates are renewed"),
            Err(error) => eprintln!("not all are renewed: {error}"),
        }
    })?;
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    server.with_state(|hosting| {
        println!(
            "{} connections, {} refused, {} names",
            hosting.connections,
            hosting.refused,
            hosting.names.len()
        );
    })?;
    Ok(())
}

fn server(event_loop: &LoopRef, hosting: Hosting) -> Result<Server, UsError> {
    Server::builder()
        .tls_server(&TlsServerOptions::without_identity().build()?)
        .refuse_unknown_names(true)
        .on_server_name(|hosting, socket, (), name| hosting.find(socket, name))
        .on_handshake(|hosting, socket, (), result| {
            match result {
                Ok(_handshake) => hosting.connections += 1,
                Err(reason) => {
                    hosting.refused += 1;
                    println!("refused: {reason}");
                }
            }
            if let Some(site) = socket.server_name_data::<Site>() {
                let text = format!("{}, renewal {}\n", site.pattern, site.renewal);
                socket.send(text.as_bytes()).expect("there is room for a line");
            }
        })
        .on_data(|_hosting, socket, (), data| {
            if socket.send(data).is_err() {
                socket.reset();
            } else if socket.needs_drain() {
                socket.pause();
            }
        })
        .on_drain(|_hosting, socket, ()| socket.resume())
        .on_end(|_hosting, socket, ()| socket.shutdown())
        .on_drain_requested(|_hosting, socket, ()| socket.close())
        .build(event_loop, hosting)
}

impl Hosting {
    /// Issues all certificates, anew if they are there already. Handshakes that begin from now on have them.
    fn renew_all(&mut self, server: &Server) -> Result<(), Failure> {
        for (name, renewal) in &mut self.names {
            *renewal += 1;
            let site = Rc::new(Site { pattern: name.clone(), renewal: *renewal });
            server.replace_server_name(name, &self.mint.issue(name)?, Some(site))?;
        }
        Ok(())
    }

    /// Somebody asks for a name that is not there. Nothing is known of it but that it comes from outside.
    fn find(&self, socket: &Socket<true>, name: &str) -> ServerNameAnswer {
        let name = name.to_ascii_lowercase();
        let label = name.strip_suffix(ON_DEMAND).unwrap_or_default();
        let is_label = !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_label || self.names.len() >= NAMES_MAX {
            return ServerNameAnswer::Refuse;
        }
        let (mint, wanted) = (self.mint.clone(), name.clone());
        let begun = self.pool.run_for(
            &self.handle,
            socket.id(),
            move || mint.issue(&wanted),
            // Back on the loop, and only if the client still waits.
            move |socket, issued| {
                if let Err(error) = go_on(socket, name, issued) {
                    eprintln!("{error}");
                    socket.close();
                }
            },
        );
        if begun.is_ok() { ServerNameAnswer::Wait } else { ServerNameAnswer::Refuse }
    }
}

/// The certificate is there, and the handshake that waits for it goes on.
fn go_on(
    socket: &Socket<true>,
    name: String,
    issued: JobResult<Result<TlsServerConfig, Failure>>,
) -> Result<(), Failure> {
    let config = issued??;
    let server = socket.context::<Hosting>()?;
    server.with_state(|hosting| {
        // Another client may have asked for the same, and been faster.
        if let Entry::Vacant(entry) = hosting.names.entry(name) {
            let site = Rc::new(Site { pattern: entry.key().clone(), renewal: 1 });
            server.add_server_name_with(entry.key(), &config, site)?;
            entry.insert(1);
        }
        socket.continue_handshake()
    })??;
    Ok(())
}

type Failure = Box<dyn Error + Send + Sync>;

/// Issues certificates, on any thread.
#[derive(Clone)]
struct Mint {
    authority: Arc<Authority>,
    /// The same for all, so that sessions survive a renewal.
    ticket_keys: TicketKeys,
}

impl Mint {
    fn new() -> Result<Self, Failure> {
        let authority = Arc::new(Authority::new("usockets example authority")?);
        Ok(Self { authority, ticket_keys: TicketKeys::random()? })
    }

    fn issue(&self, name: &str) -> Result<TlsServerConfig, Failure> {
        let identity = self.authority.server(&[name])?.identity();
        Ok(TlsServerOptions::new(identity).ticket_keys(&self.ticket_keys).build()?)
    }
}
