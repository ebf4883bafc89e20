//! understudy controller | agent | crds

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::sync::Arc;

use understudy::telemetry::{self, Metrics};
use understudy::{agent, api, controller, lease};

/// Gives a database that already runs in Kubernetes its replicas, in place, and takes them away again.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator.
    Controller(ControllerArguments),
    /// What runs inside Jobs and replica pods.
    #[command(subcommand)]
    Agent(agent::Command),
    /// Print the CustomResourceDefinition.
    Crds,
}

#[derive(clap::Args)]
struct ControllerArguments {
    /// The operator's own image: Jobs and replica pods copy the agent from it.
    #[arg(long, env = "UNDERSTUDY_IMAGE")]
    image: String,
    /// Namespace of the Lease.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Name of this instance.
    #[arg(long, env = "POD_NAME")]
    name: String,
    /// Address for probes and metrics.
    #[arg(long, env = "UNDERSTUDY_LISTEN", default_value = "0.0.0.0:8080")]
    listen: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Several libraries bring rustls along: one provider for all.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Arguments::parse().command {
        Command::Crds => match serde_yaml::to_string(&api::definition()) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        Command::Agent(command) => {
            telemetry::init();
            agent::run(command).await
        }
        Command::Controller(arguments) => {
            telemetry::init();
            run(arguments).await
        }
    }
}

async fn run(arguments: ControllerArguments) -> ExitCode {
    let client = match kube::Client::try_default().await {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "no API server to talk to");
            return ExitCode::FAILURE;
        }
    };
    let metrics = Arc::new(Metrics::default());
    let server = telemetry::serve(&arguments.listen, metrics.clone());
    let lead = async {
        let mut candidate = lease::Candidate::new(client.clone(), &arguments.namespace, "understudy", arguments.name.clone());
        // A standby is ready too: it has reached the API server and waits.
        if let Err(error) = client.apiserver_version().await {
            tracing::error!(%error, "the API server does not answer");
            return ExitCode::FAILURE;
        }
        metrics.started();
        candidate.acquire().await;
        tracing::info!(instance = %arguments.name, "leading");
        let code = tokio::select! {
            () = candidate.hold() => {
                tracing::error!("the lease is lost: another instance leads");
                return ExitCode::FAILURE;
            }
            ended = controller::run(client.clone(), arguments.image.clone(), arguments.name.clone(), metrics.clone()) => match ended {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(%error, "the controller ended");
                    ExitCode::FAILURE
                }
            },
        };
        candidate.release().await;
        code
    };
    tokio::select! {
        ended = server => {
            tracing::error!(error = ?ended.err(), address = %arguments.listen, "probes and metrics can't be served");
            ExitCode::FAILURE
        }
        code = lead => code,
        () = terminated() => ExitCode::SUCCESS,
    }
}

/// A standby that waits for the lease has no controller that would hear the signal.
async fn terminated() {
    let Ok(mut signal) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    signal.recv().await;
    // The controller, if it runs, ends by itself first and gives the lease back.
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
}
