def test_two_folders_of_images_and_lesions(tmp_path, image, table, prepared):
    rows = [
        (f"HAM_{number // 2:07}", f"ISIC_{number:07}", "nv" if number // 2 % 2 else "mel", "histo", 45.0, sex, "back")
        for number, sex in enumerate(["male", "unknown"] * 16)
    ]
    table(tmp_path / "HAM10000_metadata.tab", "lesion_id,image_id,dx,dx_type,age,sex,localization", rows)
    for number, row in enumerate(rows):
        image(tmp_path / f"HAM10000_images_part_{1 + number % 2}" / f"{row[1]}.jpg")
    done, read = prepared("ham10000", tmp_path)
    assert read.task.classes == ("mel", "nv")
    assert done.patients == 16
    assert (read.frame.groupby("patient_id")["split"].nunique() == 1).all()
    row = read.frame.set_index("path").loc["HAM10000_images_part_2/ISIC_0000003.jpg"]
    assert (row["label"], row["patient_id"], row["site"]) == ("nv", "HAM_0000001", "back")
    assert row.isna()["sex"]
    assert row["age"] == 45
    assert done.cases is None
    assert "case_id" not in read.frame
    done, read = prepared("ham10000", tmp_path, case="lesion")
    assert (done.cases, len(read.frame)) == (16, 32)
    assert read.frame["case_id"].tolist() == read.frame["patient_id"].tolist()
