//! Exit status of commands, and their failures: one kind per exit code.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use thiserror::Error;

/// Exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Success.
    Ok = 0,
    /// A check failed, or an operation failed.
    FailedCheck = 1,
    /// The command line is invalid.
    Usage = 2,
    /// The configuration is invalid.
    InvalidConfig = 3,
    /// A process or host that must answer does not.
    Unreachable = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Reason a command could not do its work.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The command line is invalid.
    #[error("{message}")]
    Usage {
        /// Complete message.
        message: String,
    },
    /// The configuration cannot be used at all.
    #[error("{message}")]
    InvalidConfig {
        /// Complete message.
        message: String,
    },
    /// A process or host that must answer does not.
    #[error("{message}")]
    Unreachable {
        /// Complete message.
        message: String,
    },
    /// An operation failed.
    #[error("{doing}: {cause}")]
    Broken {
        /// Operation that failed.
        doing: String,
        /// Cause, as the system reports it.
        cause: String,
    },
    /// The reader of our output has closed it.
    #[error("standard output was closed by its reader")]
    OutputClosed,
}

impl Failure {
    /// Builds the failure of an operation.
    pub(crate) fn broken(doing: impl Into<String>, cause: impl Display) -> Self {
        Self::Broken { doing: doing.into(), cause: cause.to_string() }
    }

    /// Builds the failure of an invalid command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into() }
    }

    /// Returns the exit status.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } => Exit::Usage,
            Self::InvalidConfig { .. } => Exit::InvalidConfig,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Broken { .. } => Exit::FailedCheck,
            Self::OutputClosed => Exit::Ok,
        }
    }
}

/// Treats a closed pipe, as by `head`, as no fault of the output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::broken("writing the output", error)
    }
}
