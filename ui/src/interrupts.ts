import { Notification } from '@jupyterlab/apputils';
import { ServerConnection } from '@jupyterlab/services';
import { CommandRegistry } from '@lumino/commands';

/** The server's address of a kernel's interrupt. */
const INTERRUPT = /\/api\/kernels\/[^/]+\/interrupt(\?|$)/;

/**
 * Show why an interrupt did not reach its kernel: JupyterLab itself drops the server's answer.
 *
 * Whatever command asked for it: the toolbar's, the menu's, a shortcut's, and those of consoles.
 */
export function tellFailedInterrupts(commands: CommandRegistry): void {
  // One command may run another one: both end with the same error.
  const told = new WeakSet<Error>();
  commands.commandExecuted.connect((_, { result }) => {
    result.catch((error: unknown) => {
      if (
        error instanceof ServerConnection.ResponseError &&
        INTERRUPT.test(error.response.url) &&
        !told.has(error)
      ) {
        told.add(error);
        Notification.error(error.message, { autoClose: false });
      }
    });
  });
}
