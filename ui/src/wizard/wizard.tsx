import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import React from 'react';

import { baseName } from '../format';
import { BuildView } from './buildView';
import { Problem } from './fields';
import { PAGES, Page, WizardModel } from './model';
import { NamePage } from './namePage';
import { ParametersPage } from './parametersPage';
import { ReviewPage } from './reviewPage';

/** The wizard's window: its pages, and the buttons to go through them. */
export class Wizard extends ReactWidget {
  /**
   * @param model - What it shows; it stays when the window is closed.
   * @param close - Closes the window.
   */
  constructor(
    private _model: WizardModel,
    private _close: () => void
  ) {
    super();
    this.addClass('jp-dockerKernel-Wizard');
  }

  protected render(): JSX.Element {
    return (
      <UseSignal signal={this._model.changed}>
        {() => <WizardView model={this._model} close={this._close} />}
      </UseSignal>
    );
  }
}

function WizardView(props: {
  model: WizardModel;
  close: () => void;
}): JSX.Element {
  const { model, close } = props;
  const heading = React.useRef<HTMLHeadingElement>(null);
  const form = React.useRef<HTMLFormElement>(null);
  const shown = React.useRef(model.page);
  // A new page begins at its heading, also for who hears it.
  React.useEffect(() => {
    if (shown.current !== model.page) {
      shown.current = model.page;
      heading.current?.focus();
    }
  }, [model.page]);
  // What had the focus may be gone when a build ends; then the next thing to do gets it.
  React.useEffect(() => {
    if (!model.building && model.page === Page.Build) {
      const focused = document.activeElement;
      const lost =
        focused === heading.current || !form.current?.contains(focused);
      const copy = form.current?.querySelector<HTMLElement>('main button');
      if (lost) {
        (copy ?? heading.current)?.focus();
      }
    }
  }, [model.page, model.building]);
  const next = async () => {
    const before = model.page;
    await model.next();
    if (model.page === before) {
      form.current
        ?.querySelector<HTMLElement>('[aria-invalid]:not(:disabled)')
        ?.focus();
    }
  };
  return (
    <form
      ref={form}
      noValidate
      onSubmit={event => {
        event.preventDefault();
        if (!isBlocked(model)) {
          void next();
        }
      }}
    >
      <header>
        <h1>Containerize {baseName(model.path)}</h1>
        <Pages page={model.page} />
      </header>
      <main>
        <h2 ref={heading} tabIndex={-1} className="jp-dockerKernel-hidden">
          {`Step ${model.page + 1} of ${PAGES.length}: ${PAGES[model.page]}`}
        </h2>
        <PageView model={model} />
        <Problem text={model.error} />
      </main>
      <Footer model={model} close={close} />
    </form>
  );
}

/** Whether the user cannot go on just now. */
function isBlocked(model: WizardModel): boolean {
  return (
    model.busy !== '' ||
    !model.notebook ||
    (model.page === Page.Review && (!model.review || model.refusal !== ''))
  );
}

function Pages({ page }: { page: Page }): JSX.Element {
  return (
    <ol className="jp-dockerKernel-pages" aria-label="Steps">
      {PAGES.map((title, index) => (
        <li
          key={title}
          className={index < page ? 'jp-mod-done' : ''}
          aria-current={index === page ? 'step' : undefined}
        >
          {title}
        </li>
      ))}
    </ol>
  );
}

function PageView({ model }: { model: WizardModel }): JSX.Element {
  switch (model.page) {
    case Page.Name:
      return <NamePage model={model} />;
    case Page.Parameters:
      return <ParametersPage model={model} />;
    case Page.Review:
      return <ReviewPage model={model} />;
    case Page.Build:
      return model.build ? (
        <BuildView build={model.build} />
      ) : (
        <p>The server has started anew, and knows nothing of this build.</p>
      );
  }
}

function Footer(props: { model: WizardModel; close: () => void }): JSX.Element {
  const { model, close } = props;
  const building = model.page === Page.Build && model.building;
  const back =
    model.page === Page.Build
      ? !model.building && !model.done
      : model.page > Page.Name;
  return (
    <footer>
      <div role="status" className="jp-dockerKernel-busy">
        {model.busy}
        {building && 'It goes on when this window is closed.'}
      </div>
      <button
        type="button"
        className="jp-Dialog-button jp-mod-reject jp-mod-styled"
        onClick={close}
      >
        Close
      </button>
      {back && (
        <button
          type="button"
          className="jp-Dialog-button jp-mod-reject jp-mod-styled"
          onClick={() => model.back()}
        >
          Back
        </button>
      )}
      {building && (
        <button
          type="button"
          className="jp-Dialog-button jp-mod-warn jp-mod-styled"
          disabled={model.build?.state === 'cancelling'}
          onClick={() => void model.cancel()}
        >
          Cancel the build
        </button>
      )}
      {model.page !== Page.Build && (
        <button
          type="submit"
          className="jp-Dialog-button jp-mod-accept jp-mod-styled"
          aria-disabled={isBlocked(model)}
        >
          {model.page === Page.Review
            ? model.pushes
              ? 'Build and push'
              : 'Build'
            : 'Next'}
        </button>
      )}
    </footer>
  );
}
