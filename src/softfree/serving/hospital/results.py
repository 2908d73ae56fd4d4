"""Predictions as a DICOM structured report (TID 1500) in the study of their source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from softfree import __version__
from softfree.serving.hospital.findings import STATEMENT, Findings
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.dicom import frame_count
from softfree_runtime.readers.quiet import quiet

SCHEME = "99SOFTFREE"  # codes of our own, since the classes of a model are its author's
SERIES_NUMBER = 9900  # far from those of scanners, so that results come last
_LONGEST = 64  # characters of a code's meaning and of a description (value representation LO)
UTF8 = "ISO_IR 192"
BARE = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
# The Patient, General Study and Patient Study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2), as far as they are common.
_COPIED = (
    *BARE,
    *("IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence", "PatientBirthTime"),
    *("EthnicGroup", "PatientComments", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("DeidentificationMethodCodeSequence", "PatientSpeciesDescription", "PatientSpeciesCodeSequence"),
    *("StudyDescription", "IssuerOfAccessionNumberSequence", "ProcedureCodeSequence", "ReferencedStudySequence"),
    *("PatientAge", "PatientSize", "PatientWeight", "TimezoneOffsetFromUTC"),
)
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")


@dataclass(frozen=True)
class ReportedModel:
    """The model that made the predictions.

    Attributes:
        name: The one it is served under.
        version: Of the model, or of the software that made it.
        digest: SHA-256 of its file, hexadecimal.
    """

    name: str
    version: str
    digest: str


@dataclass(frozen=True)
class Reported:
    """One sample of a report.

    Attributes:
        findings: What is said about it.
        sources: Headers of the files that it consists of, as from :func:`read_header`.
        frame: Frame of a multi-frame file, counted from 0; None if the sample is the whole file.
        steps: What was done to the pixels.
    """

    findings: Findings
    sources: tuple[Dataset, ...]
    frame: int | None = None
    steps: tuple[str, ...] = ()


def read_header(path: Path) -> Dataset:
    """Read the elements that results refer to or copy; their text is decoded.

    Raises:
        ReadError: No DICOM, without the UIDs of study, series and instance, or with a damaged element. The message
            names neither the file nor the patient.
    """
    tags = [*_UIDS, *_COPIED, "SpecificCharacterSet", "NumberOfFrames"]
    with quiet():  # warnings may quote the patient's name
        try:
            header = dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
            header.decode()
            absent = [name for name in _UIDS if not header.get(name)]
        except OSError as error:
            raise ReadError(f"its file cannot be read ({error.strerror})", "missing") from None
        except Exception:  # pydicom raises almost any exception on damaged elements, and quotes them
            raise ReadError("an element of its patient or study is damaged") from None
    if absent:
        raise ReadError(f"no {' and '.join(absent)} to refer to", "unsupported")
    return header


class _Report(ComprehensiveSR):
    def copy_patient_and_study_information(self, dataset: Dataset) -> None:
        """Copy nothing: highdicom checks what it copies, quotes it in logs, and refuses much of what is in use."""


def make_report(model: ReportedModel, samples: Sequence[Reported], *, seed: str = "") -> Dataset:
    """Return a structured report about samples of one study, in a new series of it.

    It is a TID 1500 Measurement Report with the model as observer (device), one measurement group a sample with its
    tracking identifier and source images, and the sources as evidence (0040,A375), without which viewers do not open
    it. Patient and study are copied from the first source as they are.

    Args:
        model: The observer.
        samples: At least one.
        seed: Makes the UIDs of the report; the same samples, model and seed give the same report again.

    Raises:
        ReadError: An element of the patient or study cannot be written.
    """
    with quiet():
        try:
            evidence = [_bare(source) for sample in samples for source in sample.sources]
            entropy = ["report", model.digest, model.name, seed, *(source.SOPInstanceUID for source in evidence)]
            groups = [_group(model, sample, [*entropy, str(number)]) for number, sample in enumerate(samples)]
            content = MeasurementReport(
                observation_context=ObservationContext(observer_device_context=_observer(model)),
                procedure_reported=_procedure(samples[0].sources[0]),
                imaging_measurements=groups,
                title=codes.DCM.ImagingMeasurementReport,
            )
            content[0].ContentSequence.insert(-1, _text(STATEMENT))  # before the measurements
            report = _Report(
                evidence=evidence,
                content=content,
                series_instance_uid=generate_uid(entropy_srcs=[*entropy, "series"]),
                series_number=SERIES_NUMBER,
                sop_instance_uid=generate_uid(entropy_srcs=entropy),
                instance_number=1,
                manufacturer="softfree",
                manufacturer_model_name=short_text(model.name),
                device_serial_number=model.digest[:_LONGEST],
                software_versions=__version__,
                series_description=short_text(f"softfree {model.name}: not a medical device"),
                specific_character_set=UTF8,
                coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name="Classes and columns of softfree")],
                is_complete=True,
                is_final=False,
                is_verified=False,
            )
            copy_patient_and_study(samples[0].sources[0], report)
        except Exception:  # which quotes patients' elements
            raise ReadError("an element of its patient or study is damaged; no report can be made") from None
    return report


def copy_patient_and_study(source: Dataset, result: Dataset) -> None:
    """Copy the patient and the study as they are, from :func:`read_header`; the result's text becomes UTF-8."""
    result.SpecificCharacterSet = UTF8
    for keyword in _COPIED:
        if keyword in source:
            result[keyword] = source[keyword]


def own_result(header: Dataset) -> bool:
    """Return whether a file is a result that softfree has made, so that no result is predicted again."""
    return str(header.get("Manufacturer", "")) == "softfree"


def _bare(source: Dataset) -> Dataset:
    bare = Dataset()
    for keyword in _UIDS:
        setattr(bare, keyword, source[keyword].value)
    for keyword in BARE:
        setattr(bare, keyword, None)
    return bare


def _observer(model: ReportedModel) -> ObserverContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=["device", model.digest]),  # the same for every report of the same file
        name=short_text(model.name),
        manufacturer_name="softfree",
        model_name=short_text(f"{model.name} {model.version}"),
        serial_number=f"sha256:{model.digest}",
    )
    return ObserverContext(codes.DCM.Device, device)


def _procedure(source: Dataset) -> CodedConcept:
    """Return the procedure that the images are of; without a valid code the general one."""
    for code in source.get("ProcedureCodeSequence") or []:
        if all(code.get(name) for name in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")):
            meaning = short_text(str(code.CodeMeaning))
            return CodedConcept(str(code.CodeValue), str(code.CodingSchemeDesignator), meaning)
    return CodedConcept.from_code(codes.SCT.ImagingProcedure)


def _group(model: ReportedModel, sample: Reported, entropy: list[str]) -> MeasurementsAndQualitativeEvaluations:
    findings = sample.findings
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            generate_uid(entropy_srcs=[*entropy, "tracking"]), short_text(model.name)
        ),
        algorithm_id=AlgorithmIdentification(
            name=model.name,
            version=model.version,
            parameters=[f"sha256:{model.digest}", *sample.steps],
            family=codes.DCM.ArtificialIntelligence,
            manufacturer="softfree",
        ),
        measurements=[
            Measurement(name=_code(number.key, number.name), value=number.value, unit=_unit(number.in_unit_of_target))
            for number in findings.numbers
        ],
        qualitative_evaluations=[
            QualitativeEvaluation(_code(choice.key, choice.name), _answer(choice.answer)) for choice in findings.choices
        ],
        source_images=[_source_image(source, sample.frame) for source in sample.sources],
    )
    group[0].ContentSequence.extend(map(_text, findings.words))
    return group


def _source_image(source: Dataset, frame: int | None) -> SourceImageForMeasurementGroup:
    several = frame is not None and frame_count(source) > 1
    return SourceImageForMeasurementGroup(
        source.SOPClassUID, source.SOPInstanceUID, [frame + 1] if several and frame is not None else None
    )


def _code(key: str, meaning: str) -> CodedConcept:
    """Return a code of ours: the value follows from the key alone, so that it is the same in every report."""
    return CodedConcept(sha256(key.encode()).hexdigest()[:12].upper(), SCHEME, short_text(meaning))


def _answer(answer: str | bool) -> CodedConcept:
    if isinstance(answer, bool):
        return CodedConcept.from_code(codes.SCT.Yes if answer else codes.SCT.No)
    return _code(answer, answer or "none")


def _unit(of_target: bool) -> CodedConcept:
    if of_target:
        return CodedConcept("{unit}", "UCUM", "unit of the training table")
    return CodedConcept.from_code(codes.UCUM.NoUnits)


def _text(words: str) -> TextContentItem:
    return TextContentItem(codes.DCM.Comment, words, RelationshipTypeValues.CONTAINS)


def short_text(text: str) -> str:
    r"""Return at most 64 characters without ``\``, which separates values."""
    text = " ".join(text.replace("\\", "/").split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
