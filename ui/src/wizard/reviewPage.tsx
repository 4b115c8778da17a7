import React from 'react';

import { IFinding, IReview, IRows } from '../api';
import { count, formatSize } from '../format';
import { Checkbox, Problem } from './fields';
import { WizardModel } from './model';

/** What will be in the image, and what will not. */
export function ReviewPage({ model }: { model: WizardModel }): JSX.Element {
  const review = model.review;
  if (!review) {
    return <></>;
  }
  return (
    <>
      <Summary model={model} review={review} />
      {review.findings.length > 0 && (
        <Findings model={model} findings={review.findings} />
      )}
      <Section
        title={count(review.packages.count, 'package')}
        rows={review.packages}
        id={one => one.name + one.version}
        show={one => [one.name, one.version]}
      />
      <Section
        title={`${count(review.files.count, 'file')}, ${formatSize(review.files.size)}`}
        rows={review.files}
        id={one => one.path}
        show={one => [
          one.path,
          formatSize(one.size),
          one.path === review.notebook ? (
            ''
          ) : (
            <button
              type="button"
              className="jp-dockerKernel-link"
              aria-label={`Leave out ${one.path}`}
              disabled={model.busy !== ''}
              onClick={() => void model.exclude(one.path, true)}
            >
              Leave out
            </button>
          )
        ]}
      />
      <Section
        title={`${review.left_out.count.toLocaleString('en')} left out`}
        rows={review.left_out}
        id={one => one.path}
        show={one =>
          model.excluded.has(one.path)
            ? [
                one.path,
                <button
                  type="button"
                  className="jp-dockerKernel-link"
                  aria-label={`Put back ${one.path}`}
                  disabled={model.busy !== ''}
                  onClick={() => void model.exclude(one.path, false)}
                >
                  Put back
                </button>
              ]
            : [one.path, one.reason]
        }
      />
    </>
  );
}

function Summary(props: { model: WizardModel; review: IReview }): JSX.Element {
  const { model, review } = props;
  const { environment, parameters } = review;
  return (
    <dl className="jp-dockerKernel-summary">
      <dt>Image</dt>
      <dd>
        <code>{review.name}</code>
        {model.pushes && ', pushed when it is made'}
      </dd>
      <dt>Environment</dt>
      <dd>
        {environment.reference} with Python {environment.python}
        {environment.running &&
          ', and what was installed in the running kernel'}
      </dd>
      <dt>Parameters</dt>
      <dd>{parameters.map(one => one.name).join(', ') || 'none'}</dd>
      <dt>Size</dt>
      <dd>
        about {formatSize(review.size)}, of which{' '}
        {formatSize(review.files.size)} are the notebook and its files
      </dd>
    </dl>
  );
}

function Findings(props: {
  model: WizardModel;
  findings: IFinding[];
}): JSX.Element {
  const { model, findings } = props;
  return (
    <fieldset className="jp-dockerKernel-findings">
      <legend>
        {findings.length === 1
          ? 'One thing may be a secret'
          : `${findings.length} things may be secrets`}
      </legend>
      <p>
        Everybody who has the image can read what is in it. Tick what is no
        secret.
      </p>
      {findings.map(one => (
        <Checkbox
          key={one.id}
          id={`docker-kernel-finding-${one.id}`}
          checked={model.allowed.has(one.id)}
          onChange={checked => model.allow(one.id, checked)}
          label={
            <>
              <strong>{one.where}</strong>: {one.rule}.{' '}
              <span className="jp-dockerKernel-hint">{one.hint}</span>
            </>
          }
        />
      ))}
      <Problem text={model.refusal} />
    </fieldset>
  );
}

/** A list that opens with a click. */
function Section<T>(props: {
  title: string;
  rows: IRows<T>;
  id: (row: T) => string;
  show: (row: T) => React.ReactNode[];
}): JSX.Element | null {
  const { rows, title } = props;
  if (rows.count === 0) {
    return null;
  }
  return (
    <details className="jp-dockerKernel-section">
      <summary>{title}</summary>
      <div
        className="jp-dockerKernel-rows"
        tabIndex={0}
        role="group"
        aria-label={title}
      >
        <table>
          <tbody>
            {rows.rows.map(row => (
              <tr key={props.id(row)}>
                {props.show(row).map((cell, index) => (
                  <td key={index}>{cell}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
        {rows.count > rows.rows.length && (
          <p>and {(rows.count - rows.rows.length).toLocaleString('en')} more</p>
        )}
      </div>
    </details>
  );
}
