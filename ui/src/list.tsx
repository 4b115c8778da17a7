import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import React from 'react';

import { IBuild } from './api';
import { Builds, isRunning } from './builds';
import { BuildView, sentence } from './wizard/buildView';
import { Problem } from './wizard/fields';

/** The window with all images that are being made, and were. */
export class BuildList extends ReactWidget {
  /**
   * @param builds - What it shows.
   * @param close - Closes the window.
   * @param first - The id of the build that is shown open at first.
   */
  constructor(
    private _builds: Builds,
    private _close: () => void,
    private _first = ''
  ) {
    super();
    this.addClass('jp-dockerKernel-Wizard');
  }

  protected render(): JSX.Element {
    return (
      <UseSignal signal={this._builds.changed}>
        {() => (
          <ListView
            builds={this._builds}
            close={this._close}
            first={this._first}
          />
        )}
      </UseSignal>
    );
  }
}

function ListView(props: {
  builds: Builds;
  close: () => void;
  first: string;
}): JSX.Element {
  const { builds, close, first } = props;
  const [error, setError] = React.useState('');
  React.useEffect(() => {
    builds.refresh().then(
      () => setError(''),
      reason => setError((reason as Error).message)
    );
  }, [builds]);
  const newest = first || builds.all[0]?.id;
  return (
    <div className="jp-dockerKernel-form">
      <header>
        <h1>Notebook images</h1>
      </header>
      <main>
        {builds.all.length === 0 && (
          <p>
            No image was made since the server’s start. “Containerize” in a
            notebook’s toolbar makes one.
          </p>
        )}
        {builds.all.map(build => (
          <Item
            key={build.id}
            builds={builds}
            build={build}
            open={build.id === newest}
          />
        ))}
        <Problem text={error} />
      </main>
      <footer>
        <button
          type="button"
          autoFocus
          className="jp-Dialog-button jp-mod-accept jp-mod-styled"
          onClick={close}
        >
          Close
        </button>
      </footer>
    </div>
  );
}

function Item(props: {
  builds: Builds;
  build: IBuild;
  open: boolean;
}): JSX.Element {
  const { builds, build } = props;
  const [open, setOpen] = React.useState(props.open);
  return (
    <details
      className="jp-dockerKernel-section"
      open={open}
      onToggle={event => setOpen(event.currentTarget.open)}
    >
      <summary>
        <strong>{build.notebook}</strong> {sentence(build)}
      </summary>
      {open && (
        <>
          <BuildView build={build} />
          {isRunning(build) && (
            <button
              type="button"
              className="jp-Dialog-button jp-mod-warn jp-mod-styled"
              disabled={build.state === 'cancelling'}
              onClick={() => void builds.cancel(build.id)}
            >
              Cancel the build
            </button>
          )}
        </>
      )}
    </details>
  );
}
