import React from 'react';

import { IRow, WizardModel } from './model';
import { Problem } from './fields';

/** Types that are proposed; others can be typed. */
const TYPES = [
  'int',
  'float',
  'bool',
  'str',
  'date',
  'datetime',
  'Path',
  'list',
  'list[int]',
  'dict',
  'any'
];

/** The parameters that were found, to be edited. */
export function ParametersPage({ model }: { model: WizardModel }): JSX.Element {
  const notebook = model.notebook;
  return (
    <>
      <p>
        {model.rows.length > 0
          ? notebook?.tagged
            ? 'Found in the cell tagged “parameters”. Who runs the image can give each another value.'
            : 'Found where the notebook assigns a plain value. Who runs the image can give each another value.'
          : 'The notebook has no parameters: name = value at the top level of a cell makes one, or a cell tagged “parameters”.'}
      </p>
      {model.rows.length > 0 && (
        <table className="jp-dockerKernel-parameters">
          <caption className="jp-dockerKernel-hidden">Parameters</caption>
          <thead>
            <tr>
              <th scope="col">Use</th>
              <th scope="col">Name</th>
              <th scope="col">Type</th>
              <th scope="col">Default</th>
              <th scope="col">Help</th>
            </tr>
          </thead>
          <tbody>
            {model.rows.map(row => (
              <ParameterRow key={row.found.name} model={model} row={row} />
            ))}
          </tbody>
        </table>
      )}
      <datalist id="docker-kernel-types">
        {TYPES.map(type => (
          <option key={type} value={type} />
        ))}
      </datalist>
      <Notes notes={notebook?.notes ?? []} />
    </>
  );
}

function ParameterRow(props: { model: WizardModel; row: IRow }): JSX.Element {
  const { model, row } = props;
  const { name } = row.found;
  const problem = row.included ? model.checked.parameters[name] : undefined;
  const problemId = `docker-kernel-problem-${name}`;
  const field = (
    key: 'type' | 'default' | 'help',
    more: React.InputHTMLAttributes<HTMLInputElement> = {}
  ) => (
    <input
      className="jp-mod-styled"
      aria-label={`${key[0]?.toUpperCase()}${key.slice(1)} of ${name}`}
      autoComplete="off"
      spellCheck={key === 'help'}
      disabled={!row.included}
      value={row[key]}
      onChange={event => model.setRow(name, { [key]: event.target.value })}
      {...more}
    />
  );
  const invalid = (key: 'type' | 'default') =>
    problem?.field === key
      ? { 'aria-invalid': true, 'aria-describedby': problemId }
      : {};
  const choices = `docker-kernel-choices-${name}`;
  return (
    <>
      <tr className={row.included ? '' : 'jp-mod-excluded'}>
        <td>
          <input
            type="checkbox"
            aria-label={`Make ${name} a parameter`}
            checked={row.included}
            onChange={event =>
              model.setRow(name, { included: event.target.checked })
            }
          />
        </td>
        <th scope="row" title={name}>
          {name}
        </th>
        <td>
          {field('type', { list: 'docker-kernel-types', ...invalid('type') })}
        </td>
        <td>
          {field('default', {
            placeholder: placeholder(row),
            list: row.found.choices.length > 0 ? choices : undefined,
            ...invalid('default')
          })}
          {row.found.choices.length > 0 && (
            <datalist id={choices}>
              {row.found.choices.map(one => (
                <option key={String(one)} value={String(one)} />
              ))}
            </datalist>
          )}
        </td>
        <td>{field('help')}</td>
      </tr>
      <tr className="jp-dockerKernel-problemRow" hidden={!problem}>
        <td />
        <td colSpan={4}>
          <Problem id={problemId} text={problem?.message ?? ''} />
        </td>
      </tr>
    </>
  );
}

function placeholder(row: IRow): string {
  if (row.found.required) {
    return 'required';
  }
  return row.found.default === null ? row.found.default_source : '';
}

/** What could not be read in the notebook. */
export function Notes({ notes }: { notes: string[] }): JSX.Element | null {
  if (notes.length === 0) {
    return null;
  }
  return (
    <details>
      <summary>
        {notes.length === 1
          ? 'One cell was not read in full'
          : `${notes.length} cells were not read in full`}
      </summary>
      <ul>
        {notes.map(note => (
          <li key={note}>{note}</li>
        ))}
      </ul>
    </details>
  );
}
